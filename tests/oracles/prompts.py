"""Prompts of many kinds, for oracles that compare methods with plain decoding: twenty, and ten with short answers."""

PROMPTS = (
    "What is photosynthesis? Explain it simply.",
    "Write a short poem about the sea.",
    "Translate to French: The weather is nice today and we are going to the park.",
    "List the first ten prime numbers.",
    "Repeat this code exactly:\n```python\ndef add(a, b):\n    result = a + b\n    return result\n```",
    "Rename the variable x to total and print the code again:\n"
    "```python\nx = 0\nfor n in values:\n    x = x + n\nprint(x)\n```",
    "Summarise: The cat sat on the mat. The dog came in. The cat ran away. The dog slept on the mat.",
    "If Anna has 3 apples and buys 4 more, then gives 2 away, how many are left? Think step by step.",
    "Write a JSON object with the keys name, age and city.",
    "Give me a recipe for pancakes.",
    "Why is the sky blue?",
    "Write a Python function that checks whether a word is a palindrome.",
    "Tell me a story about a dragon who is afraid of fire.",
    "What are the three states of matter?",
    "Correct the mistakes: She dont likes no apples and he go to school yesterday.",
    "Context: The Eiffel Tower was completed in 1889 and is 330 metres tall. Question: How tall is the Eiffel Tower?",
    "Write a polite email that asks for a day off.",
    "a b c d e f g a b c d e f g a b c d e f g",
    "Explain the difference between a list and a tuple in Python.",
    "¿Qué es un agujero negro? 🕳️ Explícalo en español.",
)

SHORT_ANSWERS = (
    "What is the capital of France?",
    "Reply with one word: what colour is grass?",
    "How many legs has a spider?",
    "Translate to Spanish: good morning",
    "Thank you very much!",
    "Complete: roses are red,",
    "Repeat: one two three one two three",
    "What is the plural of mouse?",
    "Name one planet.",
    "Wie heißt die Hauptstadt von Österreich?",
)
"""The end of text comes within 40 tokens, and so among the guesses."""

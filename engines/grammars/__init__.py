"""Languages that a text can be held to: the tokens of a model as bytes, constraints over them, and their engines.

What the methods in `engines.constrained` share, and what every other method can be combined with.
"""

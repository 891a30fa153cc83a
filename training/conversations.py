"""Text to distil from: conversations that the embedded model has with itself, with its probabilities.

    python -m training.conversations --tokens 500000 --output /tmp/conversations.safetensors

Many rows are decoded side by side, each an endless conversation: when a turn ends, the tokens that open the next turn
are given. A user's turn is either written by the model itself, from the empty user header, or one of our own requests
(copy, edit, list, code, arithmetic, translation); an answer is drawn at temperature 0.7 in half of the rows and taken
greedily in the other half. For every token the 64 most probable ones of the model are kept with their
log-probabilities: what a small draft model learns from. Nothing is downloaded, and the same seed gives the same text.
The model is held in bfloat16, in which a processor with such instructions multiplies large batches several times
faster; its probabilities are right to about a hundredth.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

import engines
from engines.models.causal import CausalModel

ROWS, LENGTH, TOP = 160, 320, 64
LONGEST_ANSWER, LONGEST_QUESTION = 130, 50
OWN_SHARE = 0.35
"""Share of the user turns that the model writes itself."""

THINGS = """the sea|a lighthouse|a bicycle|winter|bread|a small village|trains|the moon|honey bees|a river|chess|tea
a library|rain|mountains|an old clock|dogs|the desert|a market|music|the heart|volcanoes|a garden|ships|paper
maps|the Roman Empire|glass|football|spiders|the brain|wind power|coffee|a robot|islands|sleep|vaccines|gravity"""
FOLLOW_UPS = """Repeat your last answer word for word.|Write your answer again as a numbered list.
Summarise your answer in one sentence.|Shorten your answer.|Write the same text again, but in the past tense.
Correct any mistakes in your answer and write it out again.|Translate your answer into French.|Go on.
Copy the first sentence of your answer three times.|Put your answer into a table with two columns."""
REQUESTS = """What is {a}? Explain it simply.|Write a short story about {a} and {b}.|List ten facts about {a}.
Compare {a} with {b}.|Write a poem about {a}.|Why do people like {a}?|Give me five questions about {a}, with answers.
Write a Python function that adds up the numbers in a list and explain it.|Write a Python class for {a}.
Write a Python function called {w} that returns every second item of a list.|Write a letter about {a} to a friend.
A shop sells {n} pens for {m} each. How much is that? Show each step.|What is {n} + {m}? What is {n} * {m}?
Translate into German: I saw {a} and then {b}.|Translate into French: There is no {b} without {a}.
Repeat this list exactly: {a}, {b}, {c}, {d}.|Sort these words by alphabet: {a}, {b}, {c}, {d}.
Copy this sentence twice: In the morning we talked about {a}, in the evening about {b}.
Correct this sentence: she have see {a} yesterday and she like {b}.|Describe {a} to a child.
Read this and answer. Text: {a} was first, {b} came second, {c} came third. Question: what came second?
Write a JSON object with name, colour and price for {a}.|Write an SQL query that counts the rows about {w} by year.
Replace the word "{w}" by "thing" in this text: The {w} is here. A {w} was there. No {w} is like this {w}."""


def split(text: str) -> list[str]:
    """The items of a list written with bars and line ends."""
    return [item for line in text.splitlines() for item in line.split("|")]


class Conversation:
    """One row: which tokens are given next, and whose turn it is."""

    def __init__(self, model: CausalModel, rng: random.Random, greedy: bool) -> None:
        self._model, self._rng, self._greedy = model, rng, greedy
        self._end = model.tokenizer.convert_tokens_to_ids("<|im_end|>")
        self._given: list[int] = []
        self._asking, self._written = True, 0
        self._opening = model.decode(model.encode("@@")).partition("@@")[0]
        self._open_user(first=True)

    def next(self, logits: Tensor) -> int:
        """The token that follows, given the model's logits (vocabulary,)."""
        if self._given:
            return self._given.pop(0)
        if self._asking:  # what people write is less wild than a small model at temperature 1
            p, ids = (logits / 0.8).softmax(-1).topk(40)
            token = int(ids[torch.multinomial(p, 1)])
        else:
            token = int(logits.argmax()) if self._greedy else int(torch.multinomial((logits / 0.7).softmax(-1), 1))
        self._written += 1
        if self._written >= (LONGEST_QUESTION if self._asking else LONGEST_ANSWER):
            token = self._end
        if token == self._end:
            self._open_user() if not self._asking else self._open_answer()
        return token

    def _open_user(self, *, first: bool = False) -> None:
        self._asking, self._written = True, 0
        opening = self._opening if first else "\n<|im_start|>user\n"
        if self._rng.random() < OWN_SHARE:
            self._give(opening)
            return
        pool = FOLLOW_UPS if not first and self._rng.random() < 0.4 else REQUESTS
        a, b, c, d = self._rng.sample(split(THINGS), 4)
        numbers = {"n": self._rng.randint(2, 60), "m": self._rng.randint(2, 99), "w": a.split()[-1]}
        request = self._rng.choice(split(pool)).format(a=a, b=b, c=c, d=d, **numbers)
        self._give(f"{opening}{request}<|im_end|>")
        self._open_answer()

    def _open_answer(self) -> None:
        self._asking, self._written = False, 0
        self._give("\n<|im_start|>assistant\n")

    def _give(self, text: str) -> None:
        self._given += self._model.encode(text, raw=True)


def converse(model: CausalModel, seed: int) -> dict[str, Tensor]:
    """One batch: tokens (rows, length), and the model's top ids and log-probabilities (rows, length, 64) after each."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    rows = [Conversation(model, rng, greedy=row % 2 == 0) for row in range(ROWS)]
    state = model.start().fork(ROWS)
    tokens = [[row.next(torch.empty(0))] for row in rows]
    top_ids, top_log_p = [], []
    for _ in range(LENGTH):
        logits = state.extend([row[-1:] for row in tokens], last=True)[:, -1]
        log_p, ids = logits.log_softmax(-1).topk(TOP)
        top_ids.append(ids.to(torch.int32))
        top_log_p.append(log_p.half())
        for row, conversation, written in zip(range(ROWS), rows, tokens, strict=True):
            written.append(conversation.next(logits[row]))
    return {
        "tokens": torch.tensor(tokens, dtype=torch.int32),
        "top_ids": torch.stack(top_ids, 1),
        "top_log_p": torch.stack(top_log_p, 1),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=500_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    exact = engines.load()
    model = CausalModel(exact.network.bfloat16(), exact.tokenizer, name=exact.name, weights=exact.weights)
    batches: list[dict[str, Tensor]] = []
    began = time.monotonic()
    while (made := len(batches) * ROWS * LENGTH) < arguments.tokens:
        batches.append(converse(model, arguments.seed + len(batches)))
        save_file({name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}, arguments.output)
        print(f"{made + ROWS * LENGTH:,} tokens, {(time.monotonic() - began) / 60:.1f} min", flush=True)


if __name__ == "__main__":
    main()

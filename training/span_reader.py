"""The span reader: a tiny encoder-decoder of the kind of T5, made to watch it learn to answer with spans.

    OMP_NUM_THREADS=1 python -m training.span_reader --output assets/models/span-reader

After "How Optimal is Greedy Decoding for Extractive Question Answering?", Castel et al., arXiv 2108.05857, at a scale
of minutes on one core. What is done, all of it from one seed:

    1. texts: stories of a small made-up world (`training.span_texts`); a byte-level BPE of their own
    2. infilling, as BART was pretrained ("BART", Lewis et al., arXiv 1910.13461): a story is read with its sentences
       shuffled and pieces of it masked, and the whole of it is to be written. This teaches to copy, in few steps
    3. from there two ways, equally long. A: span corruption, as T5 was pretrained: 15 % of the tokens in pieces of
       about 3 are masked and asked for. B: recurring span selection, the paper's way to a model that looks things up:
       of spans that occur several times in a story one occurrence each is masked and asked for
    4. both are taught 0, 16, 64, 256 and 1,024 questions, each number from the pretrained weights anew:
       `Text: …⏎Question: …⏎Answer:<extra_id_0>.` → `<extra_id_0> answer<extra_id_1>`
    5. the ten models are stored in half precision, and what is stored is judged on held-out questions by
       `engines.labs.extraction_curve`; `card.json` holds what came out

Different from the paper: the model and its texts (a pretrained T5 and Wikipedia there), B in place of A's last part and
not after it, a larger rate and few steps. Many stories end in a question with its answer, as pages of the web do, so
that A and B have met questions, though not the form of 4. A model of this world is no reader of anything else.
"""

from __future__ import annotations

import argparse
import copy
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import Adafactor, T5Config, T5ForConditionalGeneration

from engines.labs.extraction_curve import BLANK, MARKER, SERIES, answer, measured, told, verdict
from engines.models.span_reader import (
    EXAMPLES,
    VARIANTS,
    Measured,
    Question,
    ReaderCard,
    checkpoint,
    load_reader,
    store,
)
from training.span_texts import Asked, asked, story

VOCABULARY = 1024
PAD, END = "<pad>", "</s>"
SENTINELS = (BLANK, MARKER, *(f"<extra_id_{number}>" for number in range(2, 5)))
MASKED, PIECE = 0.15, 3
"""Share of the tokens that span corruption masks, and the mean length of its pieces."""
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the of is was are were in on by for with to at and as it has been since who what when where how which "
        "whom does did do one they there from can be question answer",
    )
)
ROWS = 16
NOTHING = -100
"""Label of a place that is not counted."""

Pair = tuple[list[int], list[int]]
"""Ids that the encoder reads, and ids that the decoder is to write."""


def learn_tokenizer(texts: Sequence[str]) -> Tokenizer:
    """A byte-level BPE of `VOCABULARY` tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[PAD, END, *SENTINELS],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    return tokenizer


class Exercises:
    """Makes pairs of what is read and what is to be written."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        ids = tokenizer.get_vocab()
        self.sentinels = [ids[name] for name in SENTINELS]
        self.end = ids[END]

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids

    def rewritten(self, text: str, rng: random.Random) -> Pair:
        """Infilling of a text whose sentences were shuffled: the whole text is asked for."""
        sentences = re.findall(r".+?[.?\n]", text)
        shuffled = "".join(rng.sample(sentences, len(sentences)))
        return self.corrupted(shuffled, rng)[0], [*self.ids(text), self.end]

    def corrupted(self, text: str, rng: random.Random) -> Pair:
        """Span corruption: pieces of the text are masked, each by a sentinel, and asked for in order."""
        ids = self.ids(text)
        pieces = max(1, min(len(self.sentinels) - 1, round(MASKED * len(ids) / PIECE)))
        # One piece in each of as many equal parts, so that no two of them touch.
        part = len(ids) // pieces
        read: list[int] = []
        write: list[int] = []
        at = 0
        for number in range(pieces):
            length = min(part - 1, rng.choice((1, 2, 3, 3, 4, 5)))
            start = number * part + rng.randrange(part - length)
            read += [*ids[at:start], self.sentinels[number]]
            write += [self.sentinels[number], *ids[start : start + length]]
            at = start + length
        return [*read, *ids[at:]], [*write, self.sentinels[pieces], self.end]

    def recurring(self, text: str, rng: random.Random) -> Pair | None:
        """Recurring span selection: of spans that stand several times in the text, one occurrence each is masked."""
        clusters = recurring_spans(text)
        masked: list[tuple[int, int]] = []
        for places in rng.sample(clusters, len(clusters)):
            start, stop = rng.choice(places)
            if len(masked) < len(self.sentinels) - 1 and all(stop < low or start > high for low, high in masked):
                masked.append((start, stop))
        if not masked:
            return None
        read: list[int] = []
        write: list[int] = []
        at = 0
        for sentinel, (start, stop) in zip(self.sentinels, sorted(masked), strict=False):
            read += [*self.ids(text[at:start]), sentinel]
            write += [sentinel, *self.ids(text[start:stop])]
            at = stop
        return [*read, *self.ids(text[at:])], [*write, self.sentinels[len(masked)], self.end]

    def question(self, one: Asked) -> Pair:
        """A question in the paper's form."""
        read = self.ids(f"Text: {one.passage}\nQuestion: {one.question}\nAnswer:{SENTINELS[0]}.")
        return read, [self.sentinels[0], *self.ids(" " + one.answer), self.sentinels[1], self.end]


def recurring_spans(text: str) -> list[list[tuple[int, int]]]:
    """The places (start, stop), in characters, of each maximal run of words that occurs more than once.

    A run begins and ends with a word that says something, and takes the space before it along.
    """
    words = [(match[0], match.start(), match.end()) for match in re.finditer(r" ?\w+|[^\w ]", text)]
    found: dict[str, set[tuple[int, int]]] = {}
    for i in range(len(words)):
        for j in range(i + 1, len(words)):
            if words[i][0] != words[j][0] or (i and words[i - 1][0] == words[j - 1][0] and words[i - 1][0] != "."):
                continue
            length = 0
            while i + length < j and j + length < len(words) and words[i + length][0] == words[j + length][0]:
                if not words[i + length][0].strip().isalnum():
                    break
                length += 1
            for first in (i, j):
                run = words[first : first + length]
                while run and run[0][0].strip().lower() in STOP_WORDS:
                    run = run[1:]
                while run and run[-1][0].strip().lower() in STOP_WORDS:
                    run = run[:-1]
                if run and run[0][0].startswith(" "):
                    place = (run[0][1], run[-1][2])
                    found.setdefault(text[slice(*place)], set()).add(place)
    return [sorted(places) for places in found.values() if len(places) > 1]


def batch(pairs: Sequence[Pair]) -> dict[str, Tensor]:
    """Pairs, filled up on the right: ids and their mask (rows, read), labels (rows, write)."""

    def filled(rows: Sequence[list[int]], filling: int) -> Tensor:
        longest = max(map(len, rows))
        return torch.tensor([row + [filling] * (longest - len(row)) for row in rows])

    read, write = zip(*pairs, strict=True)
    ids = filled(read, 0)
    lengths = torch.tensor([len(row) for row in read])
    return {
        "input_ids": ids,
        "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
        "labels": filled(write, NOTHING),
    }


def train(
    network: nn.Module, batches: Iterator[list[Pair]], steps: int, rate: Callable[[int], float], name: str
) -> None:
    """Adafactor, as T5 was trained: steps are as large as the weights are. The rate of every step is given."""
    optimiser = Adafactor(network.parameters(), lr=1.0, relative_step=False, scale_parameter=True, warmup_init=False)
    network.train()
    began, shown = time.monotonic(), 0.0
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate(step)
        loss = network(**batch(next(batches))).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        shown = 0.98 * shown + 0.02 * loss.item() if step else loss.item()
        if (step + 1) % 50 == 0 or step + 1 == steps:
            print(f"{name}: step {step + 1} of {steps}, loss {shown:.3f}, {time.monotonic() - began:.0f} s", flush=True)
    network.eval()


@dataclass(frozen=True, slots=True)
class Recipe:
    """The numbers of a training."""

    seed: int = 0
    shared_steps: int = 250
    own_steps: int = 900
    tuning_steps: int = 150
    rate: float = 1e-2
    tuning_rate: float = 3e-3
    width: int = 96
    layers: int = 2
    heads: int = 4
    inner: int = 256
    examples: tuple[int, ...] = EXAMPLES
    held_out: int = 100
    cap: int = 12


def make(folder: Path, recipe: Recipe) -> ReaderCard:
    """Trains, stores and judges all models; returns the card, which is written last."""
    train_all(folder, recipe)
    return judge_all(folder, recipe)


def train_all(folder: Path, recipe: Recipe) -> None:
    """Steps 1 to 4: tokenizer, configuration, held-out questions and all checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    rng = random.Random(recipe.seed)
    held_out = distinct(random.Random(recipe.seed + 1), recipe.held_out, set())
    taught = distinct(random.Random(recipe.seed + 2), max(recipe.examples), {one.passage for one in held_out})
    exercises = Exercises(learn_tokenizer([story(rng) for _ in range(4000)]))
    exercises.tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "vocab_size": exercises.tokenizer.get_vocab_size(),
        "d_model": recipe.width,
        "d_kv": recipe.width // recipe.heads,
        "d_ff": recipe.inner,
        "num_layers": recipe.layers,
        "num_heads": recipe.heads,
        "dropout_rate": 0.0,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": exercises.end,
    }
    (folder / "config.json").write_bytes(pretty(config))
    (folder / "questions.json").write_bytes(
        pretty([Question(one.passage, one.question, one.answer) for one in held_out])
    )
    shared = T5ForConditionalGeneration(T5Config(**config))
    train(shared, infilling(exercises, rng), recipe.shared_steps, lambda step: recipe.rate, "both")
    for variant, recurring in zip(VARIANTS, (False, True), strict=True):
        network = copy.deepcopy(shared)
        train(
            network,
            stories(exercises, random.Random(recipe.seed + 3), recurring),
            recipe.own_steps,
            lambda step: recipe.rate * falling(step, recipe.own_steps),
            variant,
        )
        for examples in recipe.examples:
            tuned = copy.deepcopy(network)
            if examples:
                train(
                    tuned,
                    questions(exercises, taught[:examples], random.Random(recipe.seed + 4)),
                    recipe.tuning_steps,
                    lambda step: recipe.tuning_rate * falling(step, recipe.tuning_steps),
                    f"{variant}, {examples} questions",
                )
            store(tuned, checkpoint(folder, variant, examples))


def judge_all(folder: Path, recipe: Recipe) -> ReaderCard:
    """Step 5: the card of what lies in the folder."""
    model = load_reader(VARIANTS[0], 0, folder)
    card = ReaderCard(
        parameters=sum(weight.numel() for weight in model.network.parameters()),
        vocabulary=model.vocabulary_size,
        data="stories and questions of a made-up world, training/span_texts.py",
        stories=ROWS * (recipe.shared_steps + recipe.own_steps),
        pretraining_steps=recipe.shared_steps + recipe.own_steps,
        shared_steps=recipe.shared_steps,
        tuning_steps=recipe.tuning_steps,
        rows=ROWS,
        seed=recipe.seed,
        held_out=recipe.held_out,
        cap=recipe.cap,
        measured=tuple(judge(folder, recipe)),
    )
    (folder / "card.json").write_bytes(pretty(card))
    (folder / "README.md").write_text(readme(card), encoding="utf-8")
    return card


def distinct(rng: random.Random, count: int, known: set[str]) -> list[Asked]:
    """Questions about different passages, none of them among the `known` ones."""
    found: dict[str, Asked] = {}
    while len(found) < count:
        one = asked(rng)
        if one.passage not in known:
            found.setdefault(one.passage, one)
    return list(found.values())


def infilling(exercises: Exercises, rng: random.Random) -> Iterator[list[Pair]]:
    """Rows of the pretraining that both share."""
    while True:
        yield [exercises.rewritten(story(rng), rng) for _ in range(ROWS)]


def stories(exercises: Exercises, rng: random.Random, recurring: bool) -> Iterator[list[Pair]]:
    """Rows of recurring span selection or of span corruption."""
    while True:
        rows: list[Pair] = []
        while len(rows) < ROWS:
            text = story(rng)
            pair = exercises.recurring(text, rng) if recurring else exercises.corrupted(text, rng)
            rows += [pair] if pair else []
        yield rows


def questions(exercises: Exercises, taught: Sequence[Asked], rng: random.Random) -> Iterator[list[Pair]]:
    """Rows of tuning: all questions in a new order again and again."""
    pairs = [exercises.question(one) for one in taught]
    left: list[Pair] = []
    while True:
        while len(left) < ROWS:
            left += rng.sample(pairs, len(pairs))
        yield left[:ROWS]
        left = left[ROWS:]


def falling(step: int, steps: int) -> float:
    """A short rise, then a straight way down to a twentieth, as a share of the rate."""
    return min((step + 1) / 10, max(0.05, 1 - step / steps))


def judge(folder: Path, recipe: Recipe) -> Iterator[Measured]:
    """What is shipped is judged: weights in half precision, float32 arithmetic."""
    held_out = msgspec.json.decode((folder / "questions.json").read_bytes(), type=tuple[Question, ...])
    for variant in VARIANTS:
        for examples in recipe.examples:
            model = load_reader(variant, examples, folder)
            answers = [answer(model, one, cap=recipe.cap, chunk=32) for one in held_out]
            found = measured(model, variant, examples, answers)
            print(told(found, len(answers)), flush=True)
            yield msgspec.structs.replace(found, **{field: round(getattr(found, field), 3) for field in SERIES})


def pretty(value: object) -> bytes:
    """JSON for people."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def readme(card: ReaderCard) -> str:
    """The card for people."""
    rows = "\n".join(
        f"| {one.variant} | {one.examples:,} | {one.exact:.3f} | {one.greedy:.3f} | {one.constrained:.3f} | "
        f"{one.spans:.0%} | {one.best:.0%} |"
        for one in card.measured
    )
    return f"""# The span reader

Ten tiny encoder-decoders of the kind of T5, {card.parameters:,} numbers each, for the lab “extraction-curve”. This page
and everything beside it were written by `python -m training.span_reader`.

- Data: {card.data}; a vocabulary of {card.vocabulary:,} tokens of its own.
- Pretraining: {card.pretraining_steps:,} steps of {card.rows} stories, the first {card.shared_steps:,} of them
  infilling, the same for both variants. Then variant A: span corruption, variant B: recurring span selection.
- Tuning: {card.tuning_steps} steps of {card.rows} questions, from as many different ones as the table says.
- Seed {card.seed}. Weights in half precision.
- Measured on {card.held_out} held-out questions with spans of at most {card.cap} tokens. One seed: differences of a
  few hundredths mean nothing.

| variant | questions | F1 exact | F1 greedy | F1 constrained greedy | greedy is a span | is the best span |
|---|---|---|---|---|---|---|
{rows}

{claims(card)}

It reads nothing but texts of this world. The words are made up, and so are the people.
"""


def claims(card: ReaderCard) -> str:
    """Whether the paper's claims show, in sentences made from the numbers."""
    sentences = []
    for variant in VARIANTS:
        found = [one for one in card.measured if one.variant == variant]
        sentences.append(f"Variant {variant}. {verdict(found)}")
    first = {one.variant: one for one in card.measured if not one.examples}
    if first.keys() >= set(VARIANTS):
        a, b = first["A"].greedy, first["B"].greedy
        sentences.append(
            f"Without any question, greedy decoding has an F1 of {a:.3f} after span corruption and of {b:.3f} with "
            f"recurring span selection{', which is higher, as in the paper' if b > a else ', which is not higher'}."
        )
    return "\n\n".join(sentences)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge", action="store_true", help="only judge what lies there, and write its card again")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work = judge_all if arguments.judge else make
    work(arguments.output, Recipe(seed=arguments.seed))


if __name__ == "__main__":
    main()

"""What the inside of a model is asked: why this answer and not that one?

A *contrast* is a pair of prompts of equal length that differ in what decides between an answer and its foil, both
single tokens: the clean prompt, after which the answer is right, and the corrupted one, after which it is not. Where
several pairs are asked at once, all prompts are equally long. Measured is

    LD = logit(answer) − logit(foil) after the last token, its mean over the pairs, and
    m  = (LD − LD_corrupted) / (LD_clean − LD_corrupted), which is 1 on clean prompts and 0 on corrupted ones

as in "RelP: Faithful and Efficient Circuit Discovery via Relevance Patching", arXiv 2508.21258. Five tasks are shipped:

    ioi           indirect objects, "Interpretability in the Wild", Wang et al., arXiv 2211.00593
    induction     a pair of words that came before, "In-context Learning and Induction Heads", Olsson et al.,
                  arXiv 2209.11895
    agreement     the number of subject and verb, across a distractor
    capitals      a fact about a country
    greater-than  the years after a year, "How does GPT-2 compute greater-than?", Hanna et al., arXiv 2305.00586

and any prompt may be asked about: with a corrupted prompt of one's own, or with one in which the model's own second
choices stand in place of the words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import psutil
import torch
from msgspec import Meta
from torch import Tensor

from engines.errors import DecodingError, shown
from engines.events import Contrast, Pair
from engines.models.causal import CausalModel
from engines.runner import Run

FILE = Path(__file__).parents[2] / "assets" / "contrasts.json"
LONGEST = 256
"""Tokens of a prompt at most."""
LEAST_DIFFERENCE = 0.5
"""Of the logit differences after clean and corrupted prompts; below it the normalised metric is mostly noise."""

Task = Literal["ioi", "induction", "agreement", "capitals", "greater-than", "this prompt"]


class BadQuestion(DecodingError):
    """The prompts cannot be compared, or answer and foil cannot be told apart."""


class Asking(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of every method that asks."""

    task: Annotated[
        Task, Meta(description="A shipped set of prompts, which takes the prompt's place, or your own prompt")
    ] = "ioi"
    pairs: Annotated[int, Meta(ge=1, le=24, description="Pairs of prompts of a shipped task")] = 8
    corrupted: Annotated[
        str,
        Meta(
            description="Your prompt with something else in the place of what matters, and just as many tokens; "
            "empty: the model's own second choices",
            max_length=8000,
        ),
    ] = ""
    answer: Annotated[
        str, Meta(description="The token to explain; empty: the most probable next one", max_length=80)
    ] = ""
    foil: Annotated[str, Meta(description="What it is set against; empty: the runner-up", max_length=80)] = ""


class Wording(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pair of a shipped task: the same sentence twice, with the answers that are right."""

    clean: str
    corrupted: str
    answer: str
    foil: str


class Shipped(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A shipped task."""

    id: str
    title: str
    about: str
    pairs: tuple[Wording, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """Pairs of prompts of one length, as tokens."""

    task: str
    clean: Tensor
    """(pairs, tokens)"""
    corrupted: Tensor
    answers: Tensor
    """(pairs,)"""
    foils: Tensor

    @property
    def length(self) -> int:
        return self.clean.shape[1]

    @property
    def first(self) -> int:
        """The first position at which the prompts of any pair differ; the length if they do not."""
        differs = (self.clean != self.corrupted).any(0).nonzero()
        return int(differs[0]) if len(differs) else self.length

    @property
    def candidates(self) -> Tensor:
        """Answer and foil of every pair, (pairs, 2)."""
        return torch.stack((self.answers, self.foils), dim=1)

    def difference(self, logits: Tensor) -> Tensor:
        """LD by pair, (pairs,), from logits (pairs, vocabulary)."""
        chosen = logits.gather(1, self.candidates.to(logits.device))
        return chosen[:, 0] - chosen[:, 1]

    def event(self, model: CausalModel, clean: Tensor, corrupted: Tensor) -> Contrast:
        """What is asked, with LD by pair (pairs,) of both sides."""
        spell = model.token
        return Contrast(
            task=self.task,
            metric="normalised logit difference",
            pairs=tuple(
                Pair(
                    tuple(map(spell, one)),
                    tuple(map(spell, other)) if one != other else (),
                    spell(answer),
                    spell(foil),
                    float(up),
                    float(down) if one != other else None,
                )
                for one, other, answer, foil, up, down in zip(
                    self.clean.tolist(),
                    self.corrupted.tolist(),
                    self.answers.tolist(),
                    self.foils.tolist(),
                    clean,
                    corrupted,
                    strict=True,
                )
            ),
            first=self.first,
            clean=float(clean.mean()),
            corrupted=float(corrupted.mean()) if self.first < self.length else None,
        )


@cache
def shipped() -> dict[str, Shipped]:
    """The shipped tasks by id."""
    return {task.id: task for task in msgspec.json.decode(FILE.read_bytes(), type=tuple[Shipped, ...])}


def question(run: Run, asking: Asking, *, alone: bool = False) -> Question:
    """The question that a run's settings ask.

    Args:
        alone: without corrupted prompts; they are then the clean ones.

    Raises:
        BadQuestion: it cannot be asked; the message says what to change.
    """
    if asking.task == "this prompt":
        return own(run, asking, alone=alone)
    found = of_task(run.model, asking.task, asking.pairs)
    return Question(found.task, found.clean, found.clean, found.answers, found.foils) if alone else found


def of_task(model: CausalModel, task: str, count: int) -> Question:
    """The first `count` pairs of a shipped task that this model's tokens can tell, all of one length.

    Raises `BadQuestion` when there is none.
    """
    start = beginning(model)
    rows = []
    for wording in shipped()[task].pairs:
        row = (
            start + model.encode(wording.clean, raw=True),
            start + model.encode(wording.corrupted, raw=True),
            single(model, wording.answer),
            single(model, wording.foil),
        )
        if len(row[0]) == len(row[1]) and None not in row[2:] and row[2] != row[3]:
            rows.append(row)
    if not rows:
        raise BadQuestion(
            f"No prompt of the task {task} fits this model: its tokenizer cuts the answers into several tokens. "
            "Choose another task, or ask about a prompt of your own."
        )
    lengths = Counter(len(row[0]) for row in rows)
    length = lengths.most_common(1)[0][0]
    kept = [row for row in rows if len(row[0]) == length][:count]
    clean, corrupted, answers, foils = (torch.tensor(column) for column in zip(*kept, strict=True))
    return Question(task, clean, corrupted, answers, foils)


def own(run: Run, asking: Asking, *, alone: bool = False) -> Question:
    """The run's own prompt, together with what it was given to begin with."""
    model, clean = run.model, run.sequence
    if len(clean) > LONGEST:
        raise BadQuestion(
            f"The text is {len(clean):,} tokens long, and its inside is read for at most {LONGEST}. Ask about a "
            "shorter prompt, or an earlier token."
        )
    logits = None if asking.answer and asking.foil else run.next_logits()
    answer = named(model, asking.answer, "answer")
    if answer is None:
        assert logits is not None
        answer = int(logits.argmax())
    foil = named(model, asking.foil, "foil")
    if foil is None:
        assert logits is not None
        foil = next(id for id in logits.topk(2).indices.tolist() if id != answer)
    if answer == foil:
        raise BadQuestion(
            f"Answer and foil are the same token, {shown(model.decode([answer]))}. Name two different ones."
        )
    if alone:
        corrupted = clean
    elif asking.corrupted:
        corrupted = model.encode(asking.corrupted, raw=run.raw) + run.output
        check_lengths(model, clean, corrupted)
    else:
        corrupted = second_choices(run)
    return Question(
        "this prompt", torch.tensor([clean]), torch.tensor([corrupted]), torch.tensor([answer]), torch.tensor([foil])
    )


def check_lengths(model: CausalModel, clean: Sequence[int], corrupted: Sequence[int]) -> None:
    """Raises `BadQuestion` unless the prompts have as many tokens and differ somewhere."""
    if len(clean) != len(corrupted):
        longer, more = ("clean", clean) if len(clean) > len(corrupted) else ("corrupted", corrupted)
        fewer = min(len(clean), len(corrupted))
        at = next((i for i in range(fewer) if clean[i] != corrupted[i]), fewer)
        raise BadQuestion(
            f"The clean prompt has {len(clean)} tokens, the corrupted one {len(corrupted)}: position by position they "
            f"cannot be compared. They part at token {at}, where the {longer} one, which is longer, reads "
            f"{shown(model.decode(more[at : at + 4]))}. Choose words of as many tokens there, or pad the shorter one."
        )
    if list(clean) == list(corrupted):
        raise BadQuestion("The corrupted prompt is the clean one. Change the word that decides about the answer.")


def check_metric(question: Question, clean: Tensor, corrupted: Tensor) -> None:
    """Raises `BadQuestion` when clean and corrupted prompts hardly differ in LD (pairs,), so that m is undefined."""
    gap = float(clean.mean() - corrupted.mean())
    if not abs(gap) >= LEAST_DIFFERENCE:
        raise BadQuestion(
            f"The corrupted prompt changes the logit difference of answer and foil by only {gap:.2f}, from "
            f"{float(clean.mean()):.2f} to {float(corrupted.mean()):.2f}: there is nothing to explain. Change the word "
            "that decides between the two, or name another foil."
        )


def check_lead(said: Tensor) -> None:
    """Raises `BadQuestion` when the mean of the logit differences (prompts,) is too small to be shared out."""
    lead = float(said.mean())
    if not abs(lead) >= LEAST_DIFFERENCE:
        raise BadQuestion(
            f"Answer and foil are only {lead:.2f} logits apart: there is nothing to share out. Name another foil, "
            "for instance a word that would be wrong."
        )


def check_memory(model: CausalModel, question: Question) -> None:
    """Raises `BadQuestion` when a pass over the question with its graph would not fit the memory that is free."""
    config = model.network.config.get_text_config(decoder=True)
    pairs, length = question.clean.shape
    wide = 14 * config.hidden_size + 5 * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    scores = 4 * config.num_attention_heads * length
    written = 2 * (config.num_attention_heads + 1) * config.hidden_size  # of which edges are made
    needed = 4 * pairs * length * config.num_hidden_layers * (wide + scores + written)
    free = torch.cuda.mem_get_info()[0] if model.device.type == "cuda" else psutil.virtual_memory().available
    if needed > 0.8 * free:
        raise BadQuestion(
            f"A backward pass over {pairs} prompts of {length} tokens needs about {needed / 1e9:.1f} GB of memory, and "
            f"{free / 1e9:.1f} GB are free. Ask about fewer pairs or a shorter prompt."
        )


def named(model: CausalModel, text: str, what: str) -> int | None:
    """The single token that a text is; None for the empty text. Raises `BadQuestion` for several."""
    if not text:
        return None
    ids = plain(model, text)
    if len(ids) == 1:
        return ids[0]
    pieces = ", ".join(shown(model.decode([id])) for id in ids[:6])
    spaced = "" if text.startswith(" ") or single(model, " " + text) is None else f" {shown(' ' + text)} is one."
    raise BadQuestion(
        f"The {what} {shown(text)} is {len(ids)} tokens for this model: {pieces}. Only a single token can be explained."
        + (spaced or " Name the first of them, or another word.")
    )


def single(model: CausalModel, text: str) -> int | None:
    """The token that a text is, if it is one."""
    ids = plain(model, text)
    return ids[0] if len(ids) == 1 else None


def plain(model: CausalModel, text: str) -> list[int]:
    """A text's tokens without any that begin or end a text."""
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def beginning(model: CausalModel) -> list[int]:
    """What a text of this model begins with, if its tokenizer leaves that out."""
    first = model.tokenizer.bos_token_id
    return [] if first is None or model.encode("a", raw=True)[:1] == [first] else [first]


def second_choices(run: Run) -> list[int]:
    """The text with every word's token replaced by the likeliest other one that the model expects in its place.

    Special tokens and what a chat template says stay. What has been read already is read once more, in one pass.
    """
    model, ids = run.model, run.sequence
    logits = model.start(run.ledger, run.clock.now).extend(ids)
    kept = template_places(run)
    replaced = list(ids)
    for index in range(1, len(ids)):
        if index in kept:
            continue
        likeliest = logits[index - 1].topk(8).indices.tolist()
        usable = [id for id in likeliest if id != ids[index] and id not in model.vocabulary.special | model.eos_ids]
        replaced[index] = usable[0] if usable else ids[index]
    return replaced


def template_places(run: Run) -> set[int]:
    """Positions of the sequence that are not the user's or the model's own words: special tokens and the template."""
    model, ids = run.model, run.sequence
    special = model.vocabulary.special | model.eos_ids
    places = {index for index, id in enumerate(ids) if id in special}
    if not run.raw and model.has_chat_template:
        # What all prompts have in common at either end is the template's.
        others = [model.encode(word, raw=False) for word in ("?", "a")]
        head = min(shared(run.prompt, other) for other in others)
        tail = min(shared(run.prompt[::-1], other[::-1]) for other in others)
        places |= set(range(head)) | set(range(len(run.prompt) - tail, len(run.prompt)))
    return places


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts have in common from the beginning on."""
    pairs = zip(one, other, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))

"""What the span reader learns from: exercises that lose nothing, spans that really recur, and a recipe that runs."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from engines.labs.extraction_curve import answer
from engines.models.span_reader import FOLDER, Question, load_reader
from training.span_reader import Exercises, Recipe, distinct, make, recurring_spans
from training.span_texts import asked, facts, story

TOWER = (
    "Mary Alder built the tower of Tolva. The tower of Tolva is made of oak. The builder of the tower of Tolva was "
    "Mary Alder."
)


@pytest.fixture(scope="module")
def exercises() -> Exercises:
    return Exercises(Tokenizer.from_file(str(FOLDER / "tokenizer.json")))


def put_back(exercises: Exercises, read: list[int], write: list[int]) -> list[int]:
    """The text that a pair was made from: every blank filled with what is asked for it."""
    pieces: dict[int, list[int]] = {}
    for id in write[:-1]:
        if id in exercises.sentinels:
            current = pieces.setdefault(id, [])
        else:
            current.append(id)
    return [id for token in read for id in pieces.get(token, [token])]


def test_what_is_masked_is_what_is_asked_for(exercises: Exercises) -> None:
    rng = random.Random(1)
    for _ in range(200):
        text = story(rng)
        for pair in (exercises.corrupted(text, rng), exercises.recurring(text, rng)):
            if pair is None:
                continue
            read, write = pair
            assert put_back(exercises, read, write) == exercises.ids(text)
            blanks = [id for id in read if id in exercises.sentinels]
            assert blanks == exercises.sentinels[: len(blanks)]
            # The list ends with one marker more, and the end of text.
            assert [id for id in write if id in exercises.sentinels] == exercises.sentinels[: len(blanks) + 1]
            assert write[-1] == exercises.end


def test_span_corruption_masks_about_its_share(exercises: Exercises) -> None:
    rng = random.Random(2)
    masked = total = 0
    for _ in range(300):
        text = story(rng)
        _, write = exercises.corrupted(text, rng)
        masked += sum(id not in exercises.sentinels for id in write) - 1
        total += len(exercises.ids(text))
    assert 0.12 < masked / total < 0.2


def test_recurring_spans_are_whole_and_say_something() -> None:
    found = {TOWER[slice(*places[0])]: places for places in recurring_spans(TOWER)}
    assert set(found) == {" tower of Tolva", " Alder"}, "“Mary” begins the text: there it has no space before it"
    assert len(found[" tower of Tolva"]) == 3
    assert all(TOWER[start:stop] == " tower of Tolva" for start, stop in found[" tower of Tolva"])


def test_a_recurring_span_is_still_to_be_read_elsewhere(exercises: Exercises) -> None:
    rng = random.Random(3)
    for _ in range(50):
        text = story(rng)
        for places in recurring_spans(text):
            assert len({text[slice(*place)] for place in places}) == 1
            assert len(places) > 1


def test_infilling_asks_for_the_whole_text_and_shows_all_its_sentences(exercises: Exercises) -> None:
    read, write = exercises.rewritten(TOWER, random.Random(4))
    assert write == [*exercises.ids(TOWER), exercises.end]
    assert read != exercises.ids(TOWER)
    assert sum(id in exercises.sentinels for id in read) >= 1


def test_a_passage_holds_the_answer_once_it_is_asked_for() -> None:
    rng = random.Random(5)
    for one in distinct(rng, 100, set()):
        assert f" {one.answer}" in f" {one.passage}"
        assert one.question.endswith("?")


def test_a_distractor_is_of_another_subject_and_another_answer() -> None:
    rng = random.Random(6)
    with_one = 0
    for _ in range(200):
        told = facts(rng)
        assert len({(fact.subject, fact.relation) for fact in told}) == len(told)
        assert len({fact.subject for fact in told}) <= 2
        with_one += len(told) == 3
    assert 60 < with_one < 140


def test_the_same_seed_tells_the_same() -> None:
    assert story(random.Random(7)) == story(random.Random(7))
    assert asked(random.Random(7)) == asked(random.Random(7))
    known = {one.passage for one in distinct(random.Random(8), 20, set())}
    assert known.isdisjoint(one.passage for one in distinct(random.Random(8), 20, known))


def test_the_recipe_makes_readers_that_can_be_loaded_and_asked(tmp_path: Path) -> None:
    recipe = Recipe(shared_steps=2, own_steps=2, tuning_steps=2, examples=(0, 16), held_out=2, width=32)
    card = make(tmp_path, recipe)
    assert [(one.variant, one.examples) for one in card.measured] == [("A", 0), ("A", 16), ("B", 0), ("B", 16)]
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {
        "tokenizer.json", "config.json", "questions.json", "card.json", "README.md", "A-0.safetensors",
        "A-16.safetensors", "B-0.safetensors", "B-16.safetensors",
    }  # fmt: skip
    models = [load_reader(variant, examples, tmp_path) for variant in "AB" for examples in (0, 16)]
    assert len({model.weights for model in models}) == 4
    assert all(weight.dtype.is_floating_point for weight in models[0].network.parameters())
    one = Question("The mill of Tolva is made of oak.", "What is the mill of Tolva made of?", "oak")
    assert answer(models[0], one, cap=3, chunk=4).exact

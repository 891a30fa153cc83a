from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.errors import DecodingError
from engines.events import Event, Finished, Started
from engines.models.causal import CausalModel
from playground.cli import main
from playground.run_card import MOST_BYTES, BadCard, RunCard, card_of, compared, read, sentence, to_json
from playground.setup import Setup
from tests.playground.stored_runs import started, whole_run

SETUP = Setup(method="sampling", prompt="abc", params={"temperature": 0.9}, seed=5, max_new_tokens=24, raw=True)


@pytest.fixture(scope="module")
def events(tiny_llama: CausalModel) -> list[Event]:
    return list(SETUP.begin(tiny_llama))


def file(events: list[Event], **changes: Any) -> bytes:
    """The card of a run, with some of its fields replaced by anything."""
    return json.dumps(json.loads(to_json(card_of(events))) | changes).encode()


def test_a_card_is_read_as_it_was_written(events: list[Event]) -> None:
    assert read(to_json(card_of(events)).encode()) == card_of(events)


def test_a_card_holds_all_that_the_run_was(events: list[Event]) -> None:
    header, last = events[0], events[-1]
    assert isinstance(header, Started)
    assert isinstance(last, Finished)
    card = card_of(events)
    assert card.setup == Setup.of(events)
    assert (card.weights, card.versions, card.code) == (header.weights, header.versions, header.code)
    assert (card.text, card.token_ids, card.totals) == (last.text, last.token_ids, last.totals)
    assert to_json(card).count("\n") < 80


def test_the_same_set_up_on_the_same_model_is_identical(events: list[Event], tiny_llama: CausalModel) -> None:
    card = read(to_json(card_of(events)).encode())
    again = compared(card, list(card.setup.begin(tiny_llama)))
    assert again.identical
    assert again.circumstances == ()
    assert sentence(again, tiny_llama.token) == "identical"


def test_the_first_difference_is_named_with_both_tokens(events: list[Event], tiny_llama: CausalModel) -> None:
    card = card_of(events)
    ids = (*card.token_ids[:3], (card.token_ids[3] + 1) % 256, *card.token_ids[4:])
    told = compared(msgspec.structs.replace(card, token_ids=ids, machine="a lathe"), events)
    assert (told.identical, told.position, told.told, told.here) == (False, 3, (ids[3],), (card.token_ids[3],))
    words = sentence(told, tiny_llama.token)
    assert f"first difference at position 3: token {ids[3]}" in words
    assert f"token {card.token_ids[3]}" in words
    assert "machine a lathe there" in words


def test_an_output_that_ends_earlier_differs_at_its_end(events: list[Event], tiny_llama: CausalModel) -> None:
    card = card_of(events)
    shorter = compared(msgspec.structs.replace(card, token_ids=card.token_ids[:5]), events)
    assert (shorter.position, shorter.told, shorter.here) == (5, (), (card.token_ids[5],))
    assert "the end in the card" in sentence(shorter, tiny_llama.token)
    assert "the circumstances are the same" in sentence(shorter, tiny_llama.token)


def test_a_token_that_this_vocabulary_lacks_is_named_by_its_number(
    events: list[Event], tiny_llama: CausalModel
) -> None:
    card = card_of(events)
    told = compared(msgspec.structs.replace(card, token_ids=(2**31 - 1,)), events)
    assert f"token {2**31 - 1}" in sentence(told, tiny_llama.token)


def test_a_stopped_run_is_compared_as_far_as_it_came(events: list[Event]) -> None:
    stopped = card_of(events[: len(events) // 2])
    assert stopped.status == "stopped"
    assert 0 < len(stopped.token_ids) < 24
    assert compared(stopped, events).identical
    assert "end stopped there, token limit here" in compared(stopped, events).circumstances


def test_positions_count_from_the_first_generated_token(tiny_llama: CausalModel) -> None:
    branch = msgspec.structs.replace(SETUP, prefix=(65, 66))
    events = list(branch.begin(tiny_llama))
    card = card_of(events)
    assert card.setup.prefix == (65, 66)
    ids = (*card.token_ids[:2], 300, *card.token_ids[3:])
    assert compared(msgspec.structs.replace(card, token_ids=ids), events).position == 0


def test_bytes_and_markup_survive() -> None:
    card = card_of(whole_run())
    assert read(to_json(card).encode()) == card
    assert card.text.endswith("<b>\n")


def test_nothing_has_no_card() -> None:
    with pytest.raises(BadCard, match="has begun"):
        card_of([])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "a/birthday-card"}, "its kind is 'a/birthday-card'"),
        ({"schema": 2}, "version 2, and this program reads version 1"),
        ({"token_ids": [1, 2, 3]}, "was changed"),
        ({"token_ids_sha256": "0" * 64}, "was changed"),
        ({"token_ids_sha256": "x"}, "matching regex"),
        ({"token_ids": [-1]}, ">= 0"),
        ({"token_ids": [1] * 8193}, "length <= 8192"),
        ({"token_ids": "12345"}, "got `str`"),
        ({"extra": 1}, "unknown field `extra`"),
        ({"versions": {str(k): "1" for k in range(65)}}, "length <= 64"),
        ({"machine": "x" * 201}, "length <= 200"),
        ({"setup": {"method": "greedy"}}, "missing required field `prompt`"),
        ({"setup": {"method": "../x", "prompt": "a"}}, "cannot be a name"),
        ({"setup": {"method": "greedy", "prompt": "a", "model": "/etc"}}, "cannot be a name"),
        ({"setup": {"method": "greedy", "prompt": "a", "params": {"top_k": 10**400}}}, ""),
        ({"setup": {"method": "greedy", "prompt": "\ud800"}}, ""),
        ({"text": "\udfff"}, ""),
        ({"totals": {"tokens": float("nan")}}, "malformed"),
    ],
)
def test_what_is_no_card_is_refused_in_a_sentence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadCard) as refused:
        read(file(whole_run(), **changes))
    assert said in str(refused.value)
    assert len(str(refused.value)) < 300


def test_deep_and_large_files_are_refused_at_once() -> None:
    began = time.perf_counter()
    for data in (b"[" * 900_000, b'{"kind":' * 100_000, b'"' + b"x" * MOST_BYTES, b"", b"\xff\xfe", b"null"):
        with pytest.raises(BadCard):
            read(data)
    assert time.perf_counter() - began < 2


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def survives(data: bytes) -> None:
    began, said = time.perf_counter(), ""
    try:
        assert isinstance(read(data), RunCard)
    except DecodingError as refused:
        said = str(refused)
    assert said == "" or 10 < len(said) < 400
    assert time.perf_counter() - began < 0.5


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_card_or_an_error(data: bytes) -> None:
    survives(data)


WHOLE = json.loads(to_json(card_of([started(), *whole_run()[1:]])))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(WHOLE)), VALUES, st.sampled_from(["", *sorted(WHOLE["setup"])]))
def test_a_card_with_anything_in_a_field_is_a_card_or_an_error(name: str, value: Any, inner: str) -> None:
    survives(json.dumps(WHOLE | {name: value}).encode(errors="surrogatepass"))
    if inner:
        survives(json.dumps(WHOLE | {"setup": WHOLE["setup"] | {inner: value}}).encode(errors="surrogatepass"))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2000), st.binary(min_size=1, max_size=4))
def test_a_damaged_card_is_a_card_or_an_error(place: int, damage: bytes) -> None:
    whole = to_json(card_of(whole_run())).encode()
    place %= len(whole)
    survives(whole[:place] + damage + whole[place + len(damage) :])


# The commands, with the real model


def test_card_and_run_make_the_same_run_again(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm: CausalModel
) -> None:
    monkeypatch.setenv("DECODING_PLAYGROUND_DATA", str(tmp_path))
    asked = ["--method", "sampling", "--seed", "3", "--param", "temperature=0.7", "--max-new-tokens", "8"]
    assert main(["run", "--prompt", "Name a colour.", *asked]) == 0
    assert main(["card", "last", "--output", str(tmp_path / "card.json")]) == 0
    assert main(["link", "last", "--class"]) == 0
    assert "http://127.0.0.1:7860/?class=" in capfd.readouterr().out
    assert main(["run", "--card", str(tmp_path / "card.json")]) == 0
    assert "identical" in capfd.readouterr().err

    card = json.loads((tmp_path / "card.json").read_text())
    card["setup"]["seed"] = 4
    (tmp_path / "other.json").write_text(json.dumps(card))
    assert main(["run", "--card", str(tmp_path / "other.json"), "--no-store"]) == 1
    assert "first difference at position" in capfd.readouterr().err

    assert main(["run", "--card", str(tmp_path / "card.json"), "--seed", "4"]) == 2
    assert "--seed cannot be given beside --card" in capfd.readouterr().err
    (tmp_path / "card.json").write_text("{}")
    assert main(["run", "--card", str(tmp_path / "card.json")]) == 2
    assert "This is no run card" in capfd.readouterr().err

"""Proofs: identical runs are said to be so, wrong tokens are never called ties, and nothing is checked twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

import engines
from engines.events import Candidates, Choice, Commit, Event, Placed, Started, Token
from engines.models.causal import CausalModel
from engines.models.twin import twin
from playground import proof
from playground.proof import NotComparable, Proof, aside, check, compare, keep, known, plain_setup, question
from playground.store import Store
from playground.turnstile import Turnstile
from playground.ui.house import House
from playground.ui.proof import checked, shown

METHODS = engines.methods()
PROMPT = "abc abc abc"


def decoded(model: CausalModel, method: str = "prompt-lookup", **request: Any) -> list[Event]:
    request = {"raw": True, "max_new_tokens": 16} | request
    return list(engines.run(model, method, PROMPT, **request))


def changed(events: Sequence[Event], position: int, token: Token) -> list[Event]:
    """The same run with another token at one place."""
    out: list[Event] = []
    for event in events:
        if isinstance(event, Commit) and event.position <= position < event.position + len(event.tokens):
            tokens = list(event.tokens)
            tokens[position - event.position] = Placed(token, "copied", raw=0.01)
            event = msgspec.structs.replace(event, tokens=tuple(tokens))
        out.append(event)
    return out


def with_header(events: Sequence[Event], **fields: Any) -> list[Event]:
    return [msgspec.structs.replace(events[0], **fields), *events[1:]]


@pytest.fixture
def house(tmp_path: Path, tiny_llama: CausalModel) -> Iterator[House]:
    with Store.open(tmp_path / "runs.sqlite") as store:
        house = House(store)
        house.resident.model = tiny_llama
        yield house


# What there is to check.


@pytest.mark.parametrize(
    ("method", "params", "expected"),
    [
        ("prompt-lookup", {}, "tokens"),
        ("token-recycling", {"temperature": 0.7}, "distribution"),
        ("greedy", {}, "plain"),
        ("sampling", {"temperature": 0.7}, "lossy"),
        ("beam-search", {}, "lossy"),
    ],
)
def test_what_there_is_to_check(tiny_llama: CausalModel, method: str, params: dict[str, Any], expected: str) -> None:
    assert question(decoded(tiny_llama, method, params=params, max_new_tokens=4), METHODS) == expected


def test_a_run_stopped_before_its_first_token_has_nothing_to_check(tiny_llama: CausalModel) -> None:
    assert question(decoded(tiny_llama)[:1], METHODS) == "empty"
    with pytest.raises(NotComparable):
        question([], METHODS)


# Tokens.


@pytest.mark.parametrize("method", ["prompt-lookup", "token-recycling"])
def test_a_lossless_run_is_identical_and_is_counted_token_by_token(tiny_llama: CausalModel, method: str) -> None:
    events = decoded(tiny_llama, method)
    count = len(proof._generated(events))
    found = list(check(events, "tokens", tiny_llama))
    assert [one.done for one in found] == list(range(count + 1))
    assert found[-1].complete
    assert not any(one.complete for one in found[:-1])
    assert found[-1].difference is None


def test_the_first_wrong_token_is_named_with_both_probabilities(tiny_llama: CausalModel) -> None:
    events = decoded(tiny_llama)
    right = proof._generated(events)[5].token
    wrong = tiny_llama.token(right.id ^ 1)
    last = list(check(changed(events, 5, wrong), "tokens", tiny_llama))[-1]
    assert last.complete
    assert last.done == 6
    difference = last.difference
    assert difference is not None
    assert (difference.position, difference.ours, difference.plain) == (5, wrong, right)
    assert not difference.tie
    ids = [*tiny_llama.encode(PROMPT, raw=True), *(placed.token.id for placed in proof._generated(events)[:5])]
    logits = tiny_llama.start().extend(ids, last=True)[-1]
    best = logits.topk(2)
    assert difference.plain_p == pytest.approx(float(logits.softmax(-1)[right.id]), rel=1e-3)
    assert difference.gap == pytest.approx(float(best.values[0] - best.values[1]), rel=1e-2, abs=1e-4)


def test_plain_decoding_stops_at_the_difference(tiny_llama: CausalModel) -> None:
    events = decoded(tiny_llama)
    right = proof._generated(events)[2].token
    assert len(list(check(changed(events, 2, tiny_llama.token(right.id ^ 1)), "tokens", tiny_llama))) == 4


def seen(first: float, second: float) -> Candidates:
    letters = [Token(id, letter) for id, letter in enumerate("abc")]
    rest = 1 - first - second
    return Candidates(position=7, raw=tuple(map(Choice, letters, (first, second, rest))), entropy=1.0)


def test_only_the_second_of_two_equal_tokens_is_a_tie() -> None:
    a, b, c = (Placed(Token(id, letter), "copied", raw=0.2) for id, letter in enumerate("abc"))
    nearly = seen(0.40001, 0.40000)
    tie = compare(nearly, 7, b, a)
    assert tie.tie
    assert tie.gap == pytest.approx(2.5e-5, rel=1e-2)
    assert (tie.ours_p, tie.plain_p) == (0.4, 0.40001)
    assert not compare(nearly, 7, c, a).tie, "a wrong token is never called a tie"
    assert not compare(seen(0.4002, 0.4000), 7, b, a).tie, "0.0005 apart is more than 0.0001"
    beyond = Placed(Token(9, "z"), "copied", raw=0.001)
    assert compare(nearly, 7, beyond, a).ours_p == 0.001


def test_plain_decoding_gets_the_same_request(tiny_llama: CausalModel) -> None:
    events = decoded(tiny_llama, prefix=[97, 98], seed=5, stop=["zz"], time_limit=50.0, max_new_tokens=6)
    setup = plain_setup(events)
    assert (setup.method, setup.params, setup.prefix, setup.raw) == ("greedy", {}, (97, 98), True)
    assert (setup.max_new_tokens, setup.stop, setup.time_limit) == (len(proof._generated(events)), (), None)
    assert list(check(events, "tokens", tiny_llama))[-1].done == len(proof._generated(events))
    penalised = with_header(events, params={"temperature": 0.0, "presence_penalty": 1.0, "guesses": 3})
    assert plain_setup(penalised).method == "sampling"
    assert plain_setup(penalised).params == {"temperature": 0.0, "presence_penalty": 1.0}
    held = with_header(events, params={"temperature": 0.0, "constraint": "regex", "grammar": "a+", "guesses": 3})
    assert plain_setup(held).params == {"constraint": "regex", "grammar": "a+"}


def test_a_prompt_that_is_read_otherwise_cannot_be_compared(tiny_llama: CausalModel) -> None:
    events = with_header(decoded(tiny_llama), prompt_tokens=(Token(1, "x"),))
    with pytest.raises(NotComparable, match="other tokens"):
        list(check(events, "tokens", tiny_llama))


# What is known already.


def test_a_proof_is_kept_for_everything_it_depends_on(store: Store, tiny_llama: CausalModel) -> None:
    events = decoded(tiny_llama)
    assert known(store, events, "tokens") is None
    found = list(check(events, "tokens", tiny_llama))[-1]
    keep(store, events, found)
    assert known(store, events, "tokens") == found
    keep(store, events, found)
    assert len(store.read("SELECT * FROM proofs")) == 1
    other: list[list[Event]] = [
        with_header(events, **field)
        for field in (
            {"weights": "other"},
            {"precision": "int8"},
            {"prompt": "other"},
            {"params": {"guesses": 9}},
            {"seed": 1},
            {"max_new_tokens": 17},
            {"raw_prompt": False},
            {"stop": ("x",)},
            {"code": "other"},
            {"method": "token-recycling"},
        )
    ]
    other.append(changed(events, 3, Token(1, "x")))
    assert all(known(store, one, "tokens") is None for one in other)


def test_a_distribution_holds_for_every_prompt_and_model(store: Store, tiny_llama: CausalModel) -> None:
    events = decoded(tiny_llama, params={"temperature": 0.8}, max_new_tokens=3)
    assert isinstance(events[0], Started)
    found = Proof(kind="distribution", done=3, count=3)
    keep(store, events, found)
    alike = with_header(events, weights="other", prompt="other", seed=9)
    assert known(store, alike, "distribution") == found
    assert known(store, with_header(events, params={**events[0].params, "top_k": 3}), "distribution") is None


def test_a_broken_entry_or_database_only_means_another_check(store: Store, tiny_llama: CausalModel) -> None:
    events = decoded(tiny_llama)
    keep(store, events, list(check(events, "tokens", tiny_llama))[-1])
    store.write(lambda db: db.execute("UPDATE proofs SET result = '{'"))
    assert known(store, events, "tokens") is None
    store.close()
    assert known(store, events, "tokens") is None
    keep(store, events, Proof(kind="tokens", done=1, count=1))


# Aside.


def steps(count: int) -> Iterator[Proof]:
    return (Proof(kind="tokens", done=done, count=count) for done in range(count + 1))


def test_work_aside_takes_all_its_steps_when_nobody_decodes() -> None:
    begin = time.monotonic()
    assert [one.done for one in aside(Turnstile(), steps(4), None, threading.Event())] == [0, 1, 2, 3, 4]
    assert time.monotonic() - begin < proof.PATIENCE


def test_work_aside_waits_for_runs_but_not_forever() -> None:
    turnstile = Turnstile()
    run = turnstile.take_turns(iter(decoded(twin(), "greedy")))
    next(run)
    begin = time.monotonic()
    made = aside(turnstile, steps(4), None, threading.Event())
    assert next(made).done == 0
    assert time.monotonic() - begin >= proof.PATIENCE
    assert turnstile.running == 1, "a step that is over stands in nobody's way"
    run.close()  # type: ignore[attr-defined]
    begin = time.monotonic()
    assert next(made).done == 1
    assert time.monotonic() - begin < proof.PATIENCE


def test_work_aside_ends_when_told_to() -> None:
    stop = threading.Event()
    made = aside(Turnstile(), steps(4), None, stop)
    next(made)
    stop.set()
    assert list(made) == []


# The strip.


def values(house: House, run: str, page: str = "page") -> list[dict[str, Any]]:
    return [msgspec.json.decode(value) for value in checked(house, run, "", page)]


def test_the_strip_checks_once_and_remembers(house: House, tiny_llama: CausalModel) -> None:
    run = house.shelf.put(decoded(tiny_llama))
    first = values(house, run)
    assert [first[0]["says"]["key"], first[0]["fraction"]] == ["proof.checking", 0.0]
    assert not any("check" in value for value in first)
    assert first[-1]["says"]["key"] == "proof.identical"
    assert first[-1]["tone"] == "good"
    again = values(house, run)
    assert again == [first[-1]]
    assert msgspec.json.decode(shown(house, run, house.shelf.events(run))) == first[-1]


def test_the_strip_shows_a_difference_as_what_it_is(house: House, tiny_llama: CausalModel) -> None:
    events = decoded(tiny_llama)
    right = proof._generated(events)[1].token
    run = house.shelf.put(changed(events, 1, tiny_llama.token(right.id ^ 1)))
    last = values(house, run)[-1]
    assert (last["tone"], last["says"]["key"]) == ("bad", "proof.differs")
    assert last["says"]["args"] == {"place": 2, "count": 16}
    assert [one["token"]["id"] for one in last["tokens"]] == [right.id ^ 1, right.id]
    assert last["facts"]["key"] == "proof.no-tie"


def test_another_model_cannot_check_and_is_not_asked(house: House, tiny_llama: CausalModel) -> None:
    run = house.shelf.put(with_header(decoded(tiny_llama), weights="other", model="big"))
    (only,) = values(house, run)
    assert only["says"]["key"] == "proof.other-model"
    assert "check" not in only
    house.resident.model = None
    (only,) = values(house, run)
    assert only["says"]["key"] == "proof.no-model"


def test_a_new_run_of_the_page_ends_its_check(house: House, tiny_llama: CausalModel) -> None:
    run = house.shelf.put(decoded(tiny_llama))
    house.stopper("mine")
    assert values(house, run, "mine")[-1]["says"]["key"] == "proof.unchecked"
    assert values(house, run, "other")[-1]["says"]["key"] == "proof.identical"


def test_closing_the_page_ends_its_check(house: House, tiny_llama: CausalModel) -> None:
    run = house.shelf.put(decoded(tiny_llama))
    check = checked(house, run, "", "page")
    next(check)
    next(check)
    check.close()  # type: ignore[attr-defined]
    assert house.turnstile.running == 0
    assert known(house.store, house.shelf.events(run), "tokens") is None


def test_what_is_no_run_or_lossy_gets_a_sentence(house: House, tiny_llama: CausalModel) -> None:
    assert values(house, "no-such-run")[-1]["says"]["key"] == "proof.failed"
    run = house.shelf.put(decoded(tiny_llama, "sampling", max_new_tokens=3))
    assert values(house, run)[-1]["says"]["key"] == "proof.lossy"


def test_a_distribution_is_checked_with_a_meter(
    house: House, tiny_llama: CausalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "DRAWS", 60)
    run = house.shelf.put(decoded(tiny_llama, params={"temperature": 0.9}, max_new_tokens=3))
    shown = values(house, run)
    assert any(one["says"]["key"] == "proof.drawing" for one in shown)
    last = shown[-1]
    assert last["says"]["key"] == "proof.consistent"
    assert 0 <= last["meter"]["share"] < last["meter"]["mark"]
    assert last["how"]["args"]["count"] == 60
    another = house.shelf.put(decoded(tiny_llama, params={"temperature": 0.9}, max_new_tokens=2, seed=4))
    assert values(house, another)[-1]["says"]["key"] == "proof.consistent"
    assert len(values(house, another)) == 1

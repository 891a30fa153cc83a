"""Grammar-constrained decoding, and constraints combined with every other way of choosing."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest
import torch

from engines import run
from engines.errors import NeedNotMet
from engines.events import Candidates, Commit, Event, Finished, Forward, Mask, Note, Trials, committed
from engines.grammars.constraint import BadGrammar
from engines.grammars.samples import PERSON
from engines.method import find, methods
from engines.models.causal import CausalModel

PROMPT = "Describe a made-up person as JSON."
PLATE = "[A-F]{2}-[0-9]{3}"
CONSTRAINABLE = [id for id in methods() if "constraint" in {setting.name for setting in find(id).settings()}]
GUESSING = [id for id in CONSTRAINABLE if methods()[id].family == "speculative"]


def finished(events: list[Event]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


def decode(model: CausalModel, method: str = "grammar-mask", prompt: str = PROMPT, **options: object) -> list[Event]:
    new = options.pop("max_new_tokens", 60)
    seed = options.pop("seed", 0)
    return list(run(model, method, prompt, params=options, max_new_tokens=new, seed=seed))  # type: ignore[arg-type]


def test_what_ends_is_valid(smollm: CausalModel) -> None:
    end = finished(decode(smollm))
    assert end.reason == "end of text"
    jsonschema.validate(json.loads(end.text), json.loads(PERSON))


def test_a_hot_model_is_held_to_it_too(tiny_llama: CausalModel) -> None:
    for seed in range(20):
        end = finished(decode(tiny_llama, seed=seed, temperature=2.0, constraint="regex", grammar=PLATE))
        assert re.fullmatch(PLATE, end.text), end.text


def test_every_choice_comes_with_the_mask_it_passed(smollm: CausalModel) -> None:
    events = decode(smollm)
    masks = [event for event in events if isinstance(event, Mask)]
    wanted = [event for event in events if isinstance(event, Candidates)]
    tokens = committed(events)
    assert [mask.position for mask in masks] == list(range(len(tokens))) == [one.position for one in wanted]
    for mask, placed, candidates in zip(masks, tokens, wanted, strict=True):
        permitted = {choice.token.id for choice in mask.permitted}
        blocked = {choice.token.id for choice in mask.wanted}
        assert placed.token.id == mask.permitted[0].token.id
        assert not permitted & blocked
        top = candidates.raw[0].token.id
        assert top in permitted | blocked
        assert 0 <= mask.blocked_mass <= 1
        assert mask.blocked_mass >= sum(choice.p for choice in mask.wanted) - 1e-4


def test_filters_come_after_the_mask(smollm: CausalModel) -> None:
    events = decode(smollm, constraint="choices", grammar="yes\nno", temperature=1.0, top_k=1, max_new_tokens=4)
    first = next(event for event in events if isinstance(event, Candidates))
    assert [stage.name for stage in first.stages] == ["constraint", "top-k"]
    assert first.stages[0].removed_mass > 0.5
    assert first.stages[1].kept == 1
    assert finished(events).text in ("yes", "no")


def test_forcing_asks_the_model_less_often_and_never_breaks_the_schema(smollm: CausalModel) -> None:
    plain, forced = decode(smollm), decode(smollm, forcing=True)
    passes = [sum(isinstance(event, Forward) and event.lane == "target" for event in run) for run in (plain, forced)]
    assert passes[1] < passes[0]
    assert any(placed.origin == "forced" for placed in committed(forced))
    jsonschema.validate(json.loads(finished(forced).text), json.loads(PERSON))


def test_near_the_limit_what_is_open_is_closed_and_it_says_so(smollm: CausalModel) -> None:
    events = decode(smollm, finish=True, max_new_tokens=34)
    assert finished(events).reason == "end of text"
    jsonschema.validate(json.loads(finished(events).text), json.loads(PERSON))
    assert any(isinstance(event, Note) and "without asking the model" in event.text for event in events)


def test_a_text_that_is_cut_says_so(smollm: CausalModel) -> None:
    events = decode(smollm, max_new_tokens=24)
    assert finished(events).reason == "token limit"
    assert any(isinstance(event, Note) and "cut before it was valid" in event.text for event in events)
    with pytest.raises(json.JSONDecodeError):
        json.loads(finished(events).text)


def test_a_branch_goes_on_inside_the_language(smollm: CausalModel) -> None:
    whole = [placed.token.id for placed in committed(decode(smollm))]
    events = list(run(smollm, "grammar-mask", PROMPT, prefix=whole[:7], max_new_tokens=60))
    assert [placed.token.id for placed in committed(events)] == whole
    masks = [event.position for event in events if isinstance(event, Mask)]
    assert masks == list(range(7, len(whole)))


def test_a_bad_grammar_ends_the_run_before_it_begins_with_its_place(smollm: CausalModel) -> None:
    with pytest.raises(BadGrammar, match="Line 1, column 3"):
        decode(smollm, constraint="regex", grammar="ab[")


def test_a_model_that_tells_little_is_refused(smollm: CausalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(smollm), "has", property(lambda self: type(find("greedy").needs)(0)))
    with pytest.raises(NeedNotMet, match=r"most probable tokens|probabilities of all"):
        list(run(smollm, "greedy", PROMPT, params={"constraint": "regex", "grammar": "a"}))


@pytest.mark.parametrize("method", CONSTRAINABLE)
def test_every_method_that_offers_it_keeps_to_the_language(tiny_llama: CausalModel, method: str) -> None:
    params = {"constraint": "regex", "grammar": PLATE}
    for seed in range(3):
        events = list(run(tiny_llama, method, "abc abc abc", params=params, seed=seed, max_new_tokens=20))
        assert re.fullmatch(PLATE, finished(events).text), (method, finished(events).text)
        assert any(isinstance(event, Mask | Trials) for event in events)


@pytest.mark.parametrize("method", GUESSING)
def test_guessing_under_a_constraint_says_what_plain_decoding_says(smollm: CausalModel, method: str) -> None:
    params = {"constraint": "json schema", "grammar": PERSON}
    plain = finished(decode(smollm, "greedy", max_new_tokens=40, **params))
    guessed = decode(smollm, method, max_new_tokens=40, **params)
    assert finished(guessed).token_ids == plain.token_ids
    places = [event.position for event in guessed if isinstance(event, Commit)]
    assert places == sorted(places)


def test_a_constrained_draw_has_the_models_own_proportions(tiny_llama: CausalModel) -> None:
    """p(v | A) = p(v) / p(A): chi-square over the first letter."""
    logits = None
    counts: dict[int, int] = {}
    for seed in range(400):
        params = {"constraint": "regex", "grammar": "[a-d]", "temperature": 1.0}
        events = list(run(tiny_llama, "sampling", "x", params=params, seed=seed, max_new_tokens=1))
        token = committed(events)[0].token.id
        counts[token] = counts.get(token, 0) + 1
    state = tiny_llama.start()
    logits = state.extend(tiny_llama.encode("x"), last=True)[-1]
    letters = [tiny_llama.vocabulary.bytes_of.index(bytes([byte])) for byte in b"abcd"]
    expected = logits[torch.tensor(letters)].softmax(-1) * 400
    seen = torch.tensor([counts.get(id, 0) for id in letters], dtype=torch.float32)
    assert sum(counts.values()) == int(seen.sum())
    assert float(((seen - expected) ** 2 / expected).sum()) < 16.3  # 0.1 % of chi-square with 3 degrees of freedom

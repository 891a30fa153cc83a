"""AWRS: a toy whose law is known, then the streams of small models, then the embedded one."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import jsonschema
import msgspec
import pytest

from engines.chi_square import fit
from engines.constrained.awrs import Rejecting, awrs
from engines.errors import BadParameter
from engines.events import Compiled, Event, Note, Score, Trials
from engines.grammars.constraint import BadGrammar, DeadEnd
from engines.grammars.samples import PERSON
from engines.method import find
from engines.models.causal import CausalModel
from engines.runner import run
from tests.engines.constrained.letters import LANGUAGE, MASKED, MASS, dead_end_model
from tests.engines.laws import check_stream, finished, only, untimed
from tests.engines.toy import toy_run

ESTIMATORS = ("auto", "lcd", "wrs", "awrs", "recursive", "geometric")
TOY = {"predicate": "none", "constraint": "choices", "grammar": "\n".join(LANGUAGE)}


def on_the_toy(seed: int, **params: Any) -> list[Event]:
    job = toy_run(dead_end_model(), "s", seed=seed, max_new_tokens=8)
    events = list(awrs(job, msgspec.convert({**TOY, **params}, Rejecting)))
    assert job.text() in LANGUAGE
    return events


def decode(model: CausalModel, prompt: str = "What is the sea? ", **request: Any) -> list[Event]:
    params = {"predicate": "no letter e", **request.pop("params", {})}
    return list(run(model, "awrs", prompt, params=params, **{"max_new_tokens": 12, **request}))


def still(events: list[Event]) -> list[Event]:
    """Without anything that depends on the clock."""
    events = untimed(events)
    return [msgspec.structs.replace(event, seconds=0.0) if isinstance(event, Compiled) else event for event in events]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_text_has_the_law_of_masked_sampling(estimator: str) -> None:
    texts = Counter(only(on_the_toy(seed, estimator=estimator), Score)[0].text for seed in range(400))
    assert fit(texts, MASKED).consistent


@pytest.mark.parametrize("estimator", ["wrs", "awrs", "recursive", "geometric"])
def test_its_weight_estimates_the_probability_of_the_language(estimator: str) -> None:
    weights = [math.exp(only(on_the_toy(seed, estimator=estimator), Score)[0].value) for seed in range(800)]
    assert fmean(weights) == pytest.approx(MASS, abs=4 * stdev(weights) / math.sqrt(len(weights)))


def test_the_temperature_belongs_to_the_distribution() -> None:
    """At temperature ½ probabilities are squared: after s, a has .81 of .82."""
    texts = Counter(only(on_the_toy(seed, temperature=0.5), Score)[0].text[0] for seed in range(1500))
    assert fit(texts, {"a": 0.81 / 0.82, "b": 0.01 / 0.82}).consistent
    first = only(on_the_toy(0, temperature=0.5), Trials)[1]
    allowed = {"a": 0.0001 / 0.9802, "b": 1.0}
    assert first.exact_mass == pytest.approx(allowed["a"]) or first.exact_mass == pytest.approx(allowed["b"])


def test_the_weight_of_a_text_is_the_product_of_its_steps() -> None:
    for seed in range(20):
        events = on_the_toy(seed, estimator="awrs")
        product = math.prod(trials.weight for trials in only(events, Trials))
        assert math.exp(only(events, Score)[0].value) == pytest.approx(product)


def test_trials_show_what_was_tested_and_the_exact_mass() -> None:
    tables = {"s": 1.0, "a": 0.01, "b": 1.0, "x": 1.0, "y": 1.0}
    for seed in range(20):
        events = on_the_toy(seed, estimator="awrs")
        text = "s" + only(events, Score)[0].text
        for trials, before in zip(only(events, Trials), text, strict=True):
            assert trials.exact_mass == pytest.approx(tables[before])
            assert trials.estimator == "awrs"
            assert trials.tests == len({tried.token.id for tried in trials.tried})
            refused = [tried for tried in trials.tried if not tried.accepted and tried.round == 0]
            assert trials.refused_mass == pytest.approx(sum(tried.p for tried in refused[:1]))


def test_where_nothing_is_allowed_the_run_ends_in_a_dead_end() -> None:
    job = toy_run(dead_end_model(), "s", seed=0, max_new_tokens=8)
    events = awrs(job, Rejecting(predicate="none", constraint="choices", grammar="zz"))
    with pytest.raises(DeadEnd):
        list(events)
    assert not job.output


def test_a_run_in_a_dead_end_keeps_its_text_and_says_so(tiny_llama: CausalModel) -> None:
    params = {"predicate": "no letter e", "constraint": "choices", "grammar": "tree"}
    events = decode(tiny_llama, params=params)
    check_stream(tiny_llama, events)
    end = finished(events)
    assert (end.reason, end.text) == ("dead end", "tr")
    assert any("Nothing may follow" in note.text for note in only(events, Note))
    last = only(events, Trials)[-1]
    assert (last.weight, last.exact_mass) == (0.0, 0.0)
    assert not any(tried.accepted for tried in last.tried)
    # Every token that has probability was asked about; 64 are named.
    assert len(last.tried) == 64
    assert last.tests == tiny_llama.vocabulary_size


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_streams_keep_the_laws_and_the_condition(tiny_llama: CausalModel, estimator: str) -> None:
    events = decode(tiny_llama, params={"estimator": estimator}, max_new_tokens=20)
    check_stream(tiny_llama, events)
    assert "e" not in finished(events).text.casefold()
    assert len(only(events, Trials)) == finished(events).totals.tokens
    assert only(events, Compiled)[0].sizes["vocabulary"] == tiny_llama.vocabulary_size


def test_the_same_seed_gives_the_same_events(tiny_llama: CausalModel) -> None:
    assert still(decode(tiny_llama, seed=3)) == still(decode(tiny_llama, seed=3))
    assert finished(decode(tiny_llama, seed=3)).text != finished(decode(tiny_llama, seed=4)).text


def test_given_tokens_are_read_by_the_condition_first(tiny_llama: CausalModel) -> None:
    schema = '{"type": "array", "items": {"type": "integer"}}'
    params = {"predicate": "none", "constraint": "json schema", "grammar": schema}
    events = decode(tiny_llama, params=params, prefix=tiny_llama.encode("[1, 2", raw=True), max_new_tokens=6)
    check_stream(tiny_llama, events)
    assert set(finished(events).text[6:]) <= set("0123456789, ].eE-+")
    with pytest.raises(BadParameter, match="does not fit"):
        decode(tiny_llama, params=params, prefix=tiny_llama.encode("[x", raw=True))


def test_what_cannot_be_used_is_refused_in_words(tiny_llama: CausalModel) -> None:
    with pytest.raises(BadParameter, match="Nothing holds the text"):
        decode(tiny_llama, params={"predicate": "none"})
    with pytest.raises(BadParameter, match="one word"):
        decode(tiny_llama, params={"predicate": "words spell", "word": "two words"})
    with pytest.raises(BadGrammar, match="JSON"):
        decode(tiny_llama, params={"predicate": "none", "constraint": "json schema", "grammar": "{"})


def test_a_predicate_can_stand_on_top_of_a_grammar(tiny_llama: CausalModel) -> None:
    params = {"predicate": "no letter e", "constraint": "choices", "grammar": "else\nsun\nend"}
    assert finished(decode(tiny_llama, params=params)).text == "sun"


def test_json_of_the_real_model_is_valid_and_few_tokens_are_tested(smollm: CausalModel) -> None:
    """Where the model is of the grammar's opinion a few tests do; where it is not there may be thousands."""
    params = {"predicate": "none", "constraint": "json schema", "grammar": PERSON}
    prompt = "Invent a person and describe them as JSON with name, age and languages."
    for seed in range(2):
        events = decode(smollm, prompt, params=params, max_new_tokens=80, seed=seed)
        end = finished(events)
        assert end.reason == "end of text"
        jsonschema.validate(json.loads(end.text), json.loads(PERSON))
        tests = [trials.tests for trials in only(events, Trials)]
        assert sum(count < 0.01 * smollm.vocabulary_size for count in tests) > 0.9 * len(tests)
        assert median(tests) <= 4
        # The estimate is of the right size where the truth is known.
        ratios = [trials.weight / trials.exact_mass for trials in only(events, Trials) if trials.exact_mass]
        assert 0.2 < fmean(ratios) < 5


def test_the_real_model_writes_without_e_and_a_mask_knows_how_much_that_allows(smollm: CausalModel) -> None:
    events = decode(smollm, "Write a short story about a robot.", max_new_tokens=24)
    text = finished(events).text
    assert len(text) > 20
    assert "e" not in text
    tests = [trials.tests for trials in only(events, Trials)]
    assert max(tests) < 0.01 * smollm.vocabulary_size
    assert all(trials.exact_mass is not None and 0 < trials.exact_mass <= 1 for trials in only(events, Trials))


def test_words_of_the_real_model_spell_the_word(smollm: CausalModel) -> None:
    params = {"predicate": "words spell", "word": "Sun"}
    texts = [
        finished(decode(smollm, "Name three things.", params=params, max_new_tokens=30, seed=seed)) for seed in range(3)
    ]
    for end in texts:
        initials = "".join(word[0] for word in re.findall(r"[^\W\d_']+(?:['’]\w*)?", end.text.casefold()))
        assert "sun".startswith(initials)
        assert initials == "sun" or end.reason == "dead end"
    assert any(end.reason == "end of text" for end in texts)


def test_the_card_is_complete() -> None:
    prompts = {prompt["id"] for prompt in json.loads(Path("assets/prompts.json").read_text("utf-8"))}
    for name in ("awrs", "awrs-smc"):
        card = find(name)
        assert card.family == "constrained"
        assert not card.lossless
        assert prompts >= {*card.shines, *card.loses}
        assert card.idea.endswith(".")
        assert card.look_at.endswith(".")
        for setting in card.settings():
            assert setting.help != setting.name.replace("_", " "), f"{setting.name} has no help"

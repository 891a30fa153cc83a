"""The constraint in the rail: one folded part of the controls, and what it asks the server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import engines
from engines.method import Method
from engines.models.causal import CausalModel
from playground.grammars import load
from playground.links import decoded, encoded
from playground.setup import Setup
from playground.store import Store
from playground.ui import rail, run_panel
from playground.ui.constraint import MARKS, gallery, read, said, verdict_for
from playground.ui.decoding import arguments
from playground.ui.house import House
from playground.validity import Validity

METHODS = engines.methods()
CONSTRAINED = {
    id: method for id, method in METHODS.items() if any(setting.editor == "grammar" for setting in method.settings())
}
every_constrained = pytest.mark.parametrize("method", CONSTRAINED.values(), ids=list(CONSTRAINED))


def test_most_methods_can_be_constrained() -> None:
    assert {"grammar-mask", "greedy", "sampling"} <= set(CONSTRAINED)


@every_constrained
def test_kind_and_text_stand_apart_from_the_other_settings(method: Method) -> None:
    state = json.loads(rail.controls(method))
    apart = {setting["name"] for setting in state["settings"] if setting.get("section") == "constraint"}
    texts = {setting.name for setting in method.settings() if setting.editor == "grammar"}
    assert texts <= apart <= texts | {"constraint"}
    front = [one["name"] for one in state["settings"] if not one.get("more") and not one.get("section")]
    own = [setting.name for setting in method.settings() if setting.name not in apart]
    assert front[: len(own[: rail.FRONT_SETTINGS])] == own[: rail.FRONT_SETTINGS]


def test_a_method_that_takes_grammars_only_has_an_editor_too() -> None:
    state = json.loads(rail.controls(METHODS["syncode"]))
    apart = [setting["name"] for setting in state["settings"] if setting.get("section")]
    assert apart == ["grammar"]
    conflict = {"kind": "grammar", "grammar": 'start: start start | "a"'}
    assert read(conflict)["good"] is True
    assert read(conflict | {"tabled": True})["good"] is False


def test_a_third_partys_setting_called_constraint_stays_where_it_is() -> None:
    for method in METHODS.values():
        if method.id not in CONSTRAINED:
            assert not any(setting.get("section") for setting in json.loads(rail.controls(method))["settings"])


def test_contestants_have_theirs_too() -> None:
    state = json.loads(rail.own_controls(METHODS["greedy"], {"constraint": "regex"}, prefix="contestant-1"))
    assert state["values"]["constraint"] == "regex"
    assert sum(setting["section"] == "constraint" for setting in state["settings"]) == 2


@pytest.mark.parametrize("example", load().values(), ids=list(load()))
def test_every_grammar_of_the_gallery_fits_into_a_link_and_comes_back(example: object) -> None:
    one = load()[example.id]  # type: ignore[attr-defined]
    values = json.loads(rail.controls(METHODS["grammar-mask"]))["values"]
    values |= {"constraint": one.kind, "grammar": one.grammar}
    setup = Setup(method="grammar-mask", prompt=one.prompt, **arguments(values))
    back = decoded(encoded(setup))
    assert METHODS["grammar-mask"].validate(back.params) == METHODS["grammar-mask"].validate(setup.params)


def test_the_gallery_is_plain_data() -> None:
    told = gallery({})
    assert json.loads(json.dumps(told)) == told
    assert {"id", "title", "kind", "grammar", "prompt", "note"} == set(told[0])


def test_reading_answers_requests_and_nothing_else() -> None:
    assert read({"kind": "regex", "grammar": "a+"})["good"] is True
    told = read({"kind": "grammar", "grammar": "start: ("})
    assert (told["good"], told["line"]) == (False, 1)
    for nonsense in ({}, {"kind": "regex"}, {"kind": "x", "grammar": "a"}, {"kind": [], "grammar": "a"}):
        assert read(nonsense) == {}
    assert read({"kind": "regex", "grammar": 7}) == {}
    assert read({"kind": "regex", "grammar": "a" * 10_000_000})["good"] is False


@pytest.mark.parametrize("outcome", MARKS)
def test_every_outcome_has_words(outcome: str) -> None:
    for kind in ("json schema", "regex", "grammar", "choices"):
        for by in ("Lark 1", "list", "again", ""):
            told = said(Validity(outcome, kind, by, "<b>why</b>"))  # type: ignore[arg-type]
            assert "{" not in str(told["says"])
            assert told["why"] == "<b>why</b>", "escaped where it is shown, by textContent"


def test_the_verdict_on_a_kept_run(tmp_path: Path, smollm: CausalModel) -> None:
    house = House(Store.open(tmp_path / "runs.db"))
    params = {"constraint": "choices", "grammar": "yes\nno\n"}
    events = list(engines.run(smollm, "grammar-mask", "Is the sky blue?", params=params, max_new_tokens=8))
    run = house.shelf.put(events, "r1")
    verdict = verdict_for(house)
    told = json.loads(verdict({"run": run}))
    assert (told["run"], told["mark"], told["tone"]) == (run, "✓", "good")
    assert verdict({"run": "none such"}) == ""
    assert verdict({}) == ""


def test_two_runs_side_by_side_say_which_text_is_valid(tmp_path: Path, smollm: CausalModel) -> None:
    house = House(Store.open(tmp_path / "runs.db"))
    ids: list[str] = []
    for params in ({"constraint": "choices", "grammar": "yes\nno\n"}, {"constraint": "none"}):
        events = list(engines.run(smollm, "grammar-mask", "Is the sky blue?", params=params, max_new_tokens=8))
        ids.append(house.shelf.put(events, f"r{len(ids)}"))
    held, free = run_panel.beside(house, *ids)["verdicts"]
    assert (held["mark"], held["tone"]) == ("✓", "good")
    assert free is None


def test_a_constraint_that_was_set_goes_along_to_the_next_method_that_takes_it() -> None:
    set_ = {"constraint": "regex", "grammar": "[0-9]+", "temperature": "0.7", "seed": "3"}
    for before, after in (("greedy", "sampling"), ("grammar-mask", "greedy"), ("greedy", "grammar-mask")):
        kept = rail.kept_constraint(set_, METHODS[before], METHODS[after])
        assert kept == {"constraint": "regex", "grammar": "[0-9]+"}, (before, after)
        assert (
            json.loads(rail.controls(METHODS[after], kept))["values"] | kept
            == json.loads(rail.controls(METHODS[after], kept))["values"]
        )


def test_what_nobody_set_stays_behind() -> None:
    defaults = json.loads(rail.controls(METHODS["grammar-mask"]))["values"]
    assert rail.kept_constraint(defaults, METHODS["grammar-mask"], METHODS["greedy"]) == {}
    none = {"constraint": "none", "grammar": "[0-9]+"}
    assert rail.kept_constraint(none, METHODS["greedy"], METHODS["grammar-mask"]) == {}
    assert rail.kept_constraint({}, METHODS["greedy"], METHODS["sampling"]) == {}


def test_a_constraint_stays_behind_where_the_next_method_knows_no_such_thing() -> None:
    set_ = {"constraint": "regex", "grammar": "[0-9]+"}
    assert rail.kept_constraint(set_, METHODS["greedy"], METHODS["syncode"]) == {}
    assert rail.kept_constraint(set_, METHODS["greedy"], METHODS["logit-lens"]) == {}
    assert rail.kept_constraint(set_, METHODS["logit-lens"], METHODS["greedy"]) == {}
    assert rail.kept_constraint(set_, None, METHODS["greedy"]) == {}
    assert rail.kept_constraint({"constraint": ["regex"]}, METHODS["greedy"], METHODS["sampling"]) == {}

"""What is asked of a circuit after it was found, what is marked and kept, and what leaves as a file."""

from __future__ import annotations

import copy
import json
import sqlite3
import xml.etree.ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import networkx
import pytest
import torch

import engines
from engines.attribution import exact
from engines.attribution.circuit import Faithfulness, components
from engines.attribution.estimate import compare
from engines.errors import DecodingError
from engines.events import Circuit, Event, Forward, Placed
from engines.models.causal import CausalModel
from engines.models.white_box import WhiteBox
from playground import circuits, schema
from playground.circuit_files import as_graphml, as_json
from playground.circuits import BadMarks, Benches, Marks, NotMeasurable, Pattern, Weight, marks_from
from playground.limits import Limits
from playground.setup import Setup
from playground.store import Store
from playground.ui.behind import Reader
from playground.ui.circuit_wishes import Views, adjusted, export, in_turn, looked, patched
from playground.ui.circuits import align, asked_why, opened, run, setup_of
from playground.ui.circuits_view import Patterns
from playground.ui.house import House
from tests.playground.stored_runs import whole_run

OWNER, STRANGER = "o" * 32, "s" * 32
ASKED = {"task": "this prompt", "corrupted": "the dog sat on", "answer": "t", "foil": "w", "exact": False}


def asked(model: CausalModel, prompt: str = "the cat sat on", **params: Any) -> list[Event]:
    """A run of relevance patching up to its end."""
    return list(engines.run(model, "relp", prompt, params=ASKED | params, raw=True, max_new_tokens=1))


@pytest.fixture(scope="module")
def events(tiny_llama: CausalModel) -> list[Event]:
    return asked(tiny_llama, faithfulness=False)


@pytest.fixture
def circuit(events: list[Event]) -> Circuit:
    found = circuits.circuit_in(events)
    assert found is not None
    return found


@pytest.fixture
def house(store: Store, tiny_llama: CausalModel) -> House:
    house = House(store, Limits())
    house.resident.model = tiny_llama
    return house


def stored(store: Store, events: Sequence[Event], owner: str = OWNER) -> str:
    recording = store.recording(iter(events), owner=owner)
    list(recording)
    return recording.run_id or ""


def result(steps: Iterator[Any], kind: type) -> Any:
    """The last thing of a kind that a generator yields."""
    return [step for step in steps if isinstance(step, kind)][-1]


# The model


def test_the_question_read_again_is_the_one_that_was_asked(tiny_llama: CausalModel, events: list[Event]) -> None:
    told = circuits.asked_in(events)
    assert told is not None
    question = circuits.question_of(told)
    assert tiny_llama.decode(question.clean[0].tolist()) == "the cat sat on"
    assert tiny_llama.decode(question.corrupted[0].tolist()) == "the dog sat on"
    assert tiny_llama.decode([*question.answers.tolist(), *question.foils.tolist()]) == "tw"
    box = WhiteBox(tiny_llama.network)
    assert float(compare(box, question, gradients=False).clean.mean()) == pytest.approx(told.clean, abs=1e-4)


def test_all_components_do_everything_and_none_do_nothing(tiny_llama: CausalModel, events: list[Event]) -> None:
    benches = Benches()
    everything = components(WhiteBox(tiny_llama.network))
    whole = result(benches.weigh(tiny_llama, events, everything), Weight)
    assert (whole.faithfulness, whole.completeness) == (pytest.approx(1), pytest.approx(0))
    assert whole.components == len(everything) == 10
    empty = result(benches.weigh(tiny_llama, events, ["embed", "nonsense"]), Weight)
    assert (empty.faithfulness, empty.completeness, empty.components) == (pytest.approx(0), pytest.approx(1), 0)


def test_what_is_weighed_is_what_is_on_screen(tiny_llama: CausalModel, events: list[Event], circuit: Circuit) -> None:
    nodes, _ = circuits.on_screen(circuit, Marks(nodes=4))
    kept = {node.id for node in nodes if circuits.is_component(node)}
    told = circuits.asked_in(events)
    assert told is not None
    box = WhiteBox(tiny_llama.network)
    faithfulness = Faithfulness(box, compare(box, circuits.question_of(told), gradients=False))
    weight = result(Benches().weigh(tiny_llama, events, kept), Weight)
    assert weight.faithfulness == pytest.approx(faithfulness.of(kept), abs=1e-5)
    assert weight.completeness == pytest.approx(faithfulness.completeness(kept), abs=1e-5)
    assert weight.components == len(kept)


def test_a_question_is_read_once_and_two_are_remembered(tiny_llama: CausalModel, events: list[Event]) -> None:
    benches = Benches()
    others = [asked(tiny_llama, prompt, faithfulness=False) for prompt in ("the hat sat on", "the cow sat on")]
    counts = []
    for one in (events, events, others[0], events, others[1], others[0]):
        steps = list(benches.weigh(tiny_llama, one, ["m0"]))
        counts.append((steps.count("reading"), steps[-1].passes if isinstance(steps[-1], Weight) else None))
    assert counts == [(1, 4), (0, 0), (1, 4), (0, 0), (1, 4), (1, 4)]
    assert benches.holds(tiny_llama, others[1])
    assert not benches.holds(tiny_llama, events)


def test_what_another_model_holds_in_memory_is_let_go(
    tiny_llama: CausalModel, tiny_gpt2: CausalModel, events: list[Event]
) -> None:
    benches = Benches()
    list(benches.weigh(tiny_llama, events, ["m0"]))
    assert benches.holds(tiny_llama, events)
    benches.forget_others(tiny_gpt2)
    assert not benches.holds(tiny_llama, events)


def test_a_run_of_another_model_is_not_measured(tiny_gpt2: CausalModel, events: list[Event]) -> None:
    for model, says in ((tiny_gpt2, "tiny-llama"), (None, "No model")):
        with pytest.raises(NotMeasurable, match=says):
            list(Benches().weigh(model, events, ["m0"]))


def test_patching_for_real_is_running_the_model_with_that_part_exchanged(
    tiny_llama: CausalModel, events: list[Event]
) -> None:
    told = circuits.asked_in(events)
    assert told is not None
    question = circuits.question_of(told)
    box = WhiteBox(tiny_llama.network)
    runs = compare(box, question, gradients=False)

    def exchanged(value: torch.Tensor) -> torch.Tensor:
        value = value.clone()
        value[:, :, 2] = runs.other.head[1][:, :, 2]
        return value

    edited = box.read(question.corrupted, keep=(), edits={("head", 1): exchanged}).logits
    effect = float(runs.metric(question.difference(edited)))
    assert abs(effect) > 1e-3
    assert result(Benches().patch(tiny_llama, events, "a1.2"), float) == pytest.approx(effect, abs=1e-5)


@pytest.mark.parametrize("id", ["a9.0", "a1.9", "m7", "x", "", "a1", "a1.2.3"])
def test_what_is_no_part_of_the_model_is_neither_patched_nor_looked_into(
    tiny_llama: CausalModel, events: list[Event], id: str
) -> None:
    for ask in (Benches().patch, Benches().attend):
        with pytest.raises(NotMeasurable):
            list(ask(tiny_llama, events, id))


def test_a_head_looks_where_the_network_says_it_looks(tiny_llama: CausalModel, events: list[Event]) -> None:
    found = result(Benches().attend(tiny_llama, events, "a1.3"), Pattern)
    network = copy.deepcopy(tiny_llama.network)
    network.set_attn_implementation("eager")
    told = circuits.asked_in(events)
    assert told is not None
    with torch.no_grad():
        truth = network(circuits.question_of(told).clean, output_attentions=True).attentions[1][0, 3]
    for place, row in enumerate(found.rows):
        assert row == pytest.approx(truth[place, : place + 1].tolist(), abs=1e-5)
        assert sum(row) == pytest.approx(1, abs=1e-5)
    assert found.sharing == (2, 3)


def test_edges_into_shared_keys_and_values_belong_to_every_head_of_the_group(circuit: Circuit) -> None:
    into, out = circuits.neighbours(circuit, "a1.3", (2, 3), most=1000)
    assert {edge.target for edge in into} == {"a1.2", "a1.3"}
    assert all(edge.into in ("k", "v") for edge in into if edge.target == "a1.2")
    assert {edge.source for edge in out} == {"a1.3"}
    scores = [abs(edge.score) for edge in into]
    assert scores == sorted(scores, reverse=True)


def test_no_pass_is_made_without_the_turn(house: House, tiny_llama: CausalModel, events: list[Event]) -> None:
    held: list[bool] = []
    read = WhiteBox.read

    def watched(self: WhiteBox, *args: Any, **options: Any) -> Any:
        held.append(house.turnstile._holder is not None)
        return read(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WhiteBox, "read", watched)
        benches = Benches()
        list(in_turn(house, benches.weigh(tiny_llama, events, ["m0"]), OWNER, "p"))
        list(in_turn(house, benches.attend(tiny_llama, events, "a0.0"), OWNER, "p"))
    assert len(held) == 2 + 2 + 2 + 1
    assert all(held)
    assert house.turnstile._holder is None


# Marks


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("name movers", "name movers"),
        ("  a\n\tb  ", "a b"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("x" * 500, "x" * 40),
        ("\u202eevil\x00", "evil"),
        ("\ud800", "?"),
        ("a7.3 and friends", "a7.3 and friends"),
    ],
)
def test_the_name_of_a_group_is_one_bounded_line(name: str, kept: str) -> None:
    assert circuits.group_name(name) == kept


@pytest.mark.parametrize("name", ["", "  ", "\x00\x07", "a7.3", " m12 ", "embed", "logits", None, 3, ["x"]])
def test_a_group_is_not_called_like_a_component_or_nothing(name: object) -> None:
    with pytest.raises(BadMarks):
        circuits.group_name(name)


def test_marks_are_bounded_and_only_of_components_that_are_there(circuit: Circuit) -> None:
    told = {
        "nodes": 10**9,
        "edges": -5,
        "pinned": ["a0.1", "a0.1", "a99.1", "embed", None, "<b>", "m1"],
        "groups": {"one": ["a0.1", "a0.2", "a77.0"], "two": ["a0.2", "m0"], "gone": ["a55.5"], "bad": "m1"},
    }
    marks = marks_from(told, circuit, {"m0": 0.5})
    assert (marks.nodes, marks.edges) == (circuits.MOST_NODES, 0)
    assert marks.pinned == ("a0.1", "m1")
    assert marks.groups == {"one": ("a0.1", "a0.2"), "two": ("m0",)}
    assert marks.measured == {"m0": 0.5}


def test_two_groups_do_not_get_the_same_name_when_cut(circuit: Circuit) -> None:
    with pytest.raises(BadMarks, match="already"):
        marks_from({"groups": {"x" * 40 + "1": ["m0"], "x" * 40 + "2": ["m1"]}}, circuit)


@pytest.mark.parametrize("junk", [None, True, -1, 1.5, "x", "\ud800", [], [[]], {}, {"a": {"b": []}}, [{}], {"": [1]}])
def test_junk_is_no_mark(junk: Any, circuit: Circuit) -> None:
    told = {"nodes": junk, "edges": junk, "pinned": junk, "groups": junk}
    marks = marks_from(told, circuit)
    assert marks.pinned == ()
    assert marks.groups == {}


def test_marks_are_kept_for_the_owner_and_nobody_else(store: Store, events: list[Event]) -> None:
    id = stored(store, events)
    marks = Marks(nodes=3, edges=9, pinned=("m0",), groups={"<b>": ("a0.1", "a0.2")}, measured={"m0": 0.25})
    assert circuits.kept(store, id) == Marks()
    assert not circuits.keep(store, STRANGER, id, marks)
    assert not circuits.keep(store, OWNER, "nothing", marks)
    assert circuits.kept(store, id) == Marks()
    assert circuits.keep(store, OWNER, id, marks)
    assert circuits.keep(store, OWNER, id, msgspec.structs.replace(marks, nodes=4))
    assert circuits.kept(store, id) == msgspec.structs.replace(marks, nodes=4)


def test_marks_go_with_their_run(store: Store, events: list[Event]) -> None:
    first, second = stored(store, events), stored(store, events)
    for id in (first, second):
        circuits.keep(store, OWNER, id, Marks(nodes=2))
    store.delete(OWNER, [first])
    assert [row["run"] for row in store.read("SELECT run FROM circuits")] == [second]


def test_marks_that_cannot_be_read_are_none(store: Store, events: list[Event]) -> None:
    id = stored(store, events)
    store.write(lambda db: db.execute("INSERT INTO circuits VALUES (?, ?)", [id, '{"nodes": "many"}']))
    assert circuits.kept(store, id) == Marks()


def test_an_older_database_gets_the_table_and_keeps_its_runs(path: Path) -> None:
    with Store.open(path) as store:
        id = stored(store, whole_run())
    before = schema._steps.index(schema.circuits)
    connection = sqlite3.connect(path)
    connection.executescript(f"DROP TRIGGER runs_unmarked; DROP TABLE circuits; PRAGMA user_version = {before};")
    connection.close()
    with Store.open(path) as store:
        assert store.problem is None
        assert circuits.keep(store, OWNER, id, Marks(nodes=5))
        assert circuits.kept(store, id).nodes == 5
        assert store.run(id).status == "finished"


# Files

HOSTILE = "</data><script>\x00&\u202e]]>\ud7ff"


def test_json_holds_the_question_the_scores_and_the_groups(events: list[Event], circuit: Circuit) -> None:
    marks = Marks(nodes=4, edges=6, pinned=("m1",), groups={HOSTILE: ("a0.1", "a1.1")}, measured={"m1": 0.125})
    told = json.loads(as_json("run", events, marks))
    nodes, edges = circuits.on_screen(circuit, marks)
    assert {one["id"] for one in told["nodes"] if one["shown"]} == {node.id for node in nodes}
    assert sum(one["shown"] for one in told["edges"]) == len(edges)
    assert {one["id"]: one["score"] for one in told["nodes"]} == {node.id: node.score for node in circuit.nodes}
    assert told["groups"] == {HOSTILE: ["a0.1", "a1.1"]}
    (pair,) = told["question"]["pairs"]
    assert "".join(token["text"] for token in pair["corrupted"]) == "the dog sat on"
    by_id = {one["id"]: one for one in told["nodes"]}
    assert by_id["m1"] | {"pinned": True, "measured": 0.125, "label": "MLP of layer 1"} == by_id["m1"]
    assert by_id["a1.1"]["group"] == HOSTILE


def test_graphml_is_what_is_on_screen_and_survives_hostile_names(events: list[Event], circuit: Circuit) -> None:
    marks = Marks(nodes=5, edges=12, groups={HOSTILE: ("a0.1", "a1.1")}, pinned=("a0.1",))
    text = as_graphml(events, marks)
    assert "<script" not in text
    graph = networkx.parse_graphml(text)
    xml.etree.ElementTree.fromstring(text)
    nodes, edges = circuits.on_screen(circuit, marks)
    assert set(graph.nodes) == {node.id for node in nodes}
    assert set(graph.edges) == {(edge.source, edge.target) for edge in edges}
    assert graph.nodes["a0.1"]["group"] == HOSTILE.replace("\x00", "\ufffd")
    assert graph.nodes["a0.1"]["pinned"] is True
    for source, target, scores in graph.edges(data=True):
        parts = {edge.into: edge.score for edge in edges if (edge.source, edge.target) == (source, target)}
        assert {name: scores[name] for name in parts} == pytest.approx(parts)
        assert scores["score"] == pytest.approx(sum(parts.values()))


def test_a_run_without_a_circuit_has_no_file(house: House) -> None:
    id = stored(house.store, whole_run())
    for kind in ("json", "graphml"):
        assert "no circuit" in export(house, {"run": id, "format": kind})["problem"]
    assert "problem" in export(house, {"run": "\ud800"})


# The page


def test_the_first_picture_takes_two_passes_and_one_back(house: House, smollm: CausalModel) -> None:
    house.resident.model = smollm
    what = {"task": "ioi", "pairs": 2, "rules": {"ln": True, "identity": True, "half": True}}
    steps = run(house, Views(), what, OWNER, "page", Reader(None))
    drawn = next(update for update in steps if isinstance(update[2], str) and json.loads(update[2])["figure"])
    house.stop("circuits:page")
    list(steps)
    shown = json.loads(drawn[5])
    events = house.shelf.events(shown["run"])
    until = next(place for place, event in enumerate(events) if isinstance(event, Circuit))
    # Every run reads its prompt; what counts is what the question takes.
    lanes = [event.lane for event in events[:until] if isinstance(event, Forward) and event.lane != "prompt"]
    assert lanes == ["target", "target", "backward"]
    assert house.store.run(shown["run"]).owner == OWNER
    assert house.store.run(shown["run"]).method == "relp"


def test_sliders_show_first_and_are_weighed_then(house: House, events: list[Event]) -> None:
    id, benches, views = stored(house.store, events), Benches(), Views()
    what = {
        "run": id,
        "nodes": 3,
        "edges": 20,
        "pinned": ["a0.0"],
        "groups": {"g": ["m1"]},
        "ticket": "t",
        "save": True,
    }
    updates = list(adjusted(house, benches, views, what, OWNER, "page"))
    first, last = json.loads(updates[0][1]), json.loads(updates[-1][1])
    assert (first["state"], first["faithfulness"], last["state"]) == ("reading", None, "done")
    assert json.loads(updates[0][0])["figure"]
    assert {"a0.0", "m1"} <= {one["id"] for one in first["shown"]}
    assert last["weighed"] == len(last["shown"])
    assert circuits.kept(house.store, id).groups == {"g": ("m1",)}
    assert views.get("page", id) == circuits.kept(house.store, id)


def test_a_strangers_marks_are_shown_and_not_kept(house: House, events: list[Event]) -> None:
    id = stored(house.store, events)
    what = {"run": id, "nodes": 3, "edges": 20, "pinned": ["a0.0"], "ticket": "t", "save": True}
    updates = list(adjusted(house, Benches(), Views(), what, STRANGER, "page"))
    assert json.loads(updates[-1][1])["saved"] is False
    assert circuits.kept(house.store, id) == Marks()


def test_a_refused_name_changes_nothing(house: House, events: list[Event]) -> None:
    id, views = stored(house.store, events), Views()
    what = {"run": id, "groups": {"m0": ["m1"]}, "ticket": "t", "save": True}
    ((_, told),) = adjusted(house, Benches(), views, what, OWNER, "page")
    assert "refused" in json.loads(told)
    assert views.get("page", id) is None


def test_a_head_is_looked_into_and_patched_and_the_effect_is_kept(house: House, events: list[Event]) -> None:
    id, benches, views, patterns = stored(house.store, events), Benches(), Views(), Patterns()
    views.put("page", id, Marks(pinned=("a1.3",)))
    what = {"run": id, "node": "a1.3", "ticket": "t"}
    node, pattern = list(looked(house, benches, views, patterns, what, OWNER, "page"))[-1]
    told = json.loads(node)
    assert (told["unit"], told["sharing"], told["measured"]) == (3, [2], None)
    assert json.loads(json.loads(pattern)["figure"])["data"][0]["z"][0][1:] == [None] * 13
    node, graph = list(patched(house, benches, views, what | {"sharing": [2, 3]}, OWNER, "page"))[-1]
    truth = result(benches.patch(house.resident.model, events, "a1.3"), float)
    assert json.loads(node)["measured"] == truth == circuits.kept(house.store, id).measured["a1.3"]
    assert "patched for real" in json.loads(graph)["figure"]


def test_a_run_opened_again_has_its_question_and_its_marks(house: House, events: list[Event]) -> None:
    id = stored(house.store, events)
    circuits.keep(house.store, OWNER, id, Marks(nodes=4, pinned=("m0",), groups={"g": ("a0.1",)}))
    form, _, _, graph, *_, told, _, _ = opened(house, Views(), id, "page")
    assert json.loads(form)["asked"]["corrupted"] == "the dog sat on"
    assert json.loads(told)["pinned"] == ["m0"]
    assert json.loads(told)["groups"] == {"g": ["a0.1"]}
    assert json.loads(graph)["figure"]


def test_a_run_without_a_question_is_not_opened_here(house: House) -> None:
    id = stored(house.store, whole_run())
    *before, told, _, _ = opened(house, Views(), id, "page")
    assert json.loads(told) == {"other": id}
    assert all(not isinstance(one, str) for one in before)


def test_a_token_of_a_run_is_asked_about_with_what_came_before_it(house: House, tiny_llama: CausalModel) -> None:
    events = list(engines.run(tiny_llama, "greedy", "hello", max_new_tokens=6, raw=True))
    placed: list[Placed] = engines.events.committed(events)
    id = stored(house.store, events)
    header, prefix, token, foil = circuits.why(events, 3)
    assert (header.prompt, prefix) == ("hello", tuple(one.token.id for one in placed[:3]))
    assert token == placed[3].token
    assert foil is not None
    assert foil != token
    for position in (-1, 99, "x", None):
        with pytest.raises(NotMeasurable):
            asked_why(house, {"run": id, "position": position})
    spelled = [place for place, one in enumerate(placed) if one.token.text and not one.token.hex]
    for place in spelled:
        try:
            what = asked_why(house, {"run": id, "position": place})
        except NotMeasurable:
            continue
        assert what["answer"] == placed[place].token.text
        assert setup_of(what).prefix == tuple(one.token.id for one in placed[:place])


@pytest.mark.parametrize("junk", [None, True, -1, 1.5, "x", "\ud800", [], {}, 10**30, "<script>"])
def test_a_form_of_junk_gets_a_sentence_or_a_run_that_can_be_asked_for(house: House, junk: Any) -> None:
    names = ("task", "pairs", "rules", "prompt", "corrupted", "answer", "foil", "prefix", "parent", "raw")
    for name in names:
        for task in ("ioi", "this prompt"):
            what = {"task": task, "prompt": "x", name: junk}
            try:
                setup = setup_of(what)
            except DecodingError:
                continue
            assert isinstance(setup, Setup)
            msgspec.json.encode(setup)


def test_prompts_are_aligned_and_what_is_wrong_is_said(house: House) -> None:
    good = align(house, {"prompt": "abc", "corrupted": "abd", "answer": "a", "foil": "b", "raw": True})
    assert [[token.text for token in side] for side in good["sides"]] == [["a", "b", "c"], ["a", "b", "d"]]
    assert good["problems"] == []
    bad = align(house, {"prompt": "abc", "corrupted": "abcd", "answer": "xyz", "foil": "", "raw": True})
    assert "3 tokens" in bad["problems"][0]
    assert "4" in bad["problems"][0]
    assert "answer 'xyz' is 3 tokens" in bad["problems"][1]


def test_exact_and_service_agree_on_the_whole_difference(tiny_llama: CausalModel, events: list[Event]) -> None:
    told = circuits.asked_in(events)
    assert told is not None
    box = WhiteBox(tiny_llama.network)
    runs = compare(box, circuits.question_of(told), gradients=False, keep=("sites", "keys"))
    assert exact.node(box, runs, "logits") == 1.0
    assert result(Benches().patch(tiny_llama, events, "embed"), float) == pytest.approx(1, abs=1e-4)

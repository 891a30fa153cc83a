"""Beam tree, budget, scores, cost curve; and how pictures are found."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from picture_streams import beams, best_of_n, contrastive, curve, greedy, recycling, token

from engines.events import Beam, Beams, Curve, Forward, Note, Score
from visuals import beam_tree, budget, cost_curve, picture, scores
from visuals.palette import ROLES


def boxes(drawing: Any, role: str) -> int:
    return sum(t["x"].count(None) for t in drawing["data"] if t.get("fillcolor") == ROLES[role].bg)


def chain(*outcomes: str) -> list[Beams]:
    """Two hypotheses a position; each position continues the first."""
    out, parent = [], -1
    for position, outcome in enumerate(outcomes):
        first = Beam(2 * position, parent, token("a"), -1.0, -1.0, outcome)  # type: ignore[arg-type]
        second = Beam(2 * position + 1, parent, token("b"), -2.0, -2.0, "pruned")
        out.append(Beams(position=position, beams=(first, second)))
        parent = 2 * position
    return out


def test_fates_look_ahead() -> None:
    fate = beam_tree.fates(beam_tree.search(chain("live", "live", "live")))
    assert fate == {0: "live", 1: "pruned", 2: "live", 3: "pruned", 4: "live", 5: "pruned"}
    fate = beam_tree.fates(beam_tree.search(chain("live", "live", "chosen")))
    assert [fate[id] for id in (0, 2, 4)] == ["chosen"] * 3
    fate = beam_tree.fates(beam_tree.search(chain("live", "pruned")))
    assert fate[0] == "pruned", "a hypothesis whose every continuation was dropped is dropped"
    fate = beam_tree.fates(beam_tree.search(chain("live", "finished")))
    assert fate == {0: "live", 1: "pruned", 2: "finished", 3: "pruned"}


def test_a_later_word_on_a_hypothesis_counts() -> None:
    events = [*chain("live", "live"), Beams(position=1, beams=(Beam(2, 0, token("a"), -1.0, -0.5, "chosen"),))]
    found = beam_tree.search(events)
    assert found.beams[2].outcome == "chosen"
    assert len(found.columns[1]) == 2
    drawing = beam_tree.draw(events)
    assert boxes(drawing, "accepted") == 2
    assert boxes(drawing, "rejected") == 2


def test_groups_have_bands() -> None:
    drawing = beam_tree.draw(beams(groups=3, width=2, length=4))
    assert drawing is not None
    assert [note["text"] for note in drawing["layout"]["annotations"][1:]] == ["group 1", "group 2", "group 3"]


def test_samples_keep_their_rows() -> None:
    events = best_of_n(samples=4, length=5)
    drawing = beam_tree.draw(events)
    assert drawing is not None
    hover = drawing["data"][-1]
    assert len(set(hover["y"])) == 4
    assert boxes(drawing, "accepted") == 5
    assert boxes(drawing, "target") == 15


def test_a_circle_of_parents_ends() -> None:
    events = [Beams(position=0, beams=(Beam(0, 1, token("a"), 0.0, 0.0, "live"), Beam(1, 0, token("b"), 0, 0, "live")))]
    assert beam_tree.draw(events) is not None


def test_long_searches_show_their_end() -> None:
    drawing = beam_tree.draw(beams(length=100, width=4, finish=False))
    assert drawing is not None
    assert len(drawing["data"][-1]["x"]) <= beam_tree.MOST_BOXES
    assert "positions before 70 are left out" in drawing["layout"]["annotations"][0]["text"]


def test_beam_narration_and_table() -> None:
    said = beam_tree.narrate(chain("live", "live", "chosen"))
    assert "6 hypotheses were weighed at 3 positions; 3 of them were dropped." in said
    assert "has 3 tokens, ends in “a”, and scores -1.00" in said
    assert len(beam_tree.table(beams(length=6, width=3))) == 36
    assert "3 groups" in beam_tree.narrate(beams(groups=3, width=2, length=4))


def test_time_is_split_and_nothing_is_lost() -> None:
    events = recycling(5)
    seconds = budget.spent(events)
    assert seconds["prompt"] == pytest.approx(0.09)
    assert seconds["target"] == pytest.approx(sum(e.seconds for e in events if isinstance(e, Forward)) - 0.09)
    assert seconds["draft"] == 0
    assert sum(seconds.values()) == pytest.approx(events[-1].time)
    drawing = budget.draw(events)
    assert drawing is not None
    stack = [trace for trace in drawing["data"] if trace.get("orientation") == "h"]
    assert sum(trace["x"][0] for trace in stack) == pytest.approx(events[-1].time)
    reads = [trace for trace in drawing["data"] if trace.get("xaxis") == "x2"]
    assert [trace["y"] for trace in reads] == [[4], [9] * 5]


def test_a_long_prompt_does_not_flatten_the_rest() -> None:
    events = [Forward(lane="prompt", batch=1, query=512, cached=0, seconds=1.0), *greedy(3)[2:]]
    drawing = budget.draw(events)
    assert drawing is not None
    assert drawing["layout"]["yaxis2"]["range"][1] < 2
    assert "cut off" in drawing["layout"]["annotations"][1]["text"]


def test_budget_narration() -> None:
    said = budget.narrate(greedy(4))
    assert "reading the prompt took 40 ms in 1 pass" in said
    assert "target passes took 120 ms in 4 passes" in said
    assert "16 ms, 9% of the time" in said
    assert "1.0 tokens on average" in said
    assert len(budget.table(greedy(4))) == 5


def test_terms_that_add_up_are_bars() -> None:
    drawing = scores.draw(contrastive(3))
    assert drawing is not None
    names = [trace["name"] for trace in drawing["data"] if trace["type"] == "bar"]
    assert names == ["confidence", "degeneration penalty"]
    assert [trace["type"] for trace in drawing["data"]] == ["bar", "bar", "scatter", "scatter"]
    numbers = drawing["data"][-1]["text"]
    assert [text.startswith("✓") for text in numbers] == [False, True, False, False]
    assert drawing["layout"]["xaxis"]["title"]["text"] == "contrastive score at position 2"
    names = drawing["layout"]["yaxis"]["ticktext"]
    assert [name.endswith("✓") for name in names] == [False, True, False, False]


def test_other_numbers_stay_off_the_axis() -> None:
    events = [
        Score(name="mean", value=-0.5, parts={"log-probability": -20.0, "tokens": 40.0}, sequence=i, text=f"text {i}")
        for i in range(3)
    ]
    drawing = scores.draw(events)
    assert drawing is not None
    assert [trace["type"] for trace in drawing["data"]] == ["bar", "scatter"]
    assert drawing["layout"]["xaxis"]["range"][0] > -1
    assert "value -0.5000<br>log-probability -20.0000<br>tokens 40.0000<br>text 1" in drawing["data"][0]["customdata"]


def test_samples_are_rows() -> None:
    drawing = scores.draw(best_of_n())
    assert drawing is not None
    assert drawing["data"][0]["x"] == [0.31, -0.2, 0.84, 0.55]
    assert drawing["layout"]["yaxis"]["ticktext"][2] == "<b>sample 3</b> ✓"
    said = scores.narrate(best_of_n())
    assert "4 samples were scored by reward." in said
    assert "Chosen: sample 3 with 0.840." in said


def test_what_is_said_of_methods_and_texts_as_a_whole_is_not_weighed_here() -> None:
    whole = [
        Score(name="Soft-NS", value=0.5, text="relp"),
        Score(name="written text is valid", value=1.0, chosen=True, sequence=0, text="llguidance, a/b, valid: {}"),
    ]
    assert not scores.relevant(whole)
    assert scores.draw(whole) is None
    sample = Score(name="reward", value=2.0, sequence=0, text="a text", chosen=True)
    assert scores.draw([sample, *whole]) == scores.draw([sample])


def test_cost_in_milliseconds_and_per_token() -> None:
    drawing = cost_curve.draw(curve())
    assert drawing is not None
    total, each = drawing["data"][:2]
    assert total["y"] == [31.9, 47, 57, 61, 76, 117]
    assert each["y"] == [31.9, 11.75, 7.125, 3.812, 2.375, 1.828]
    assert [note["text"] for note in drawing["layout"]["annotations"]] == ["ms per pass", "ms per token"]
    assert "64 times the new tokens cost 3.7 times as much" in cost_curve.narrate(curve())


def test_latest_curve_of_a_name_counts() -> None:
    again = Curve(name="lean", x_name="new tokens", y_name="seconds", x=(1.0,), y=(0.001,))
    drawing = cost_curve.draw([*curve(), again])
    assert drawing is not None
    assert drawing["data"][2]["y"] == [1.0]


def test_a_picture_from_elsewhere_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "foreign_picture.py").write_text(
        "from visuals.picture import picture\n"
        "@picture('foreign', title='Foreign', explains='x.', empty='y.', table=lambda e: [],\n"
        "         narrate=lambda e: 'z.', relevant=lambda e: True)\n"
        "def draw(events): return {'kind': 'plotly', 'data': [], 'layout': {}}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(picture, "_registry", {})

    class Entry:
        def __init__(self, module: str) -> None:
            self.name = self.value = module

        def load(self) -> Any:
            __import__(self.name)
            return sys.modules[self.name]

    monkeypatch.setattr(picture, "entry_points", lambda group: [Entry("foreign_picture"), Entry("missing_picture")])
    picture._discover.cache_clear()
    with pytest.warns(UserWarning, match="missing_picture"):
        found = picture.pictures()
    assert found["foreign"].draw([Note(text="x")]) == {"kind": "plotly", "data": [], "layout": {}}


def test_two_pictures_cannot_share_an_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "_registry", dict(picture.pictures()))

    def draw(events: Any) -> None:
        return None

    with pytest.raises(ValueError, match="two pictures are called 'budget'"):
        picture.picture(
            "budget",
            title="",
            explains="",
            empty="",
            table=list,
            narrate=str,
            relevant=bool,  # type: ignore[arg-type]
        )(draw)

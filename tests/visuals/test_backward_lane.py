"""Backward passes in the pictures of time: counted, named, told apart, and never taken for reading."""

from __future__ import annotations

from stream_parts import started
from test_timeline import ahead

from engines.events import Event, Forward
from visuals import budget, timeline

PASSES: list[Event] = [
    started("relp", "attribution"),
    Forward(lane="prompt", batch=2, query=10, cached=0, seconds=0.25, time=0.25),
    Forward(lane="backward", batch=2, query=10, cached=0, seconds=0.5, began=0.25, time=0.75),
    Forward(lane="target", batch=4, query=5, cached=5, seconds=0.25, began=0.75, time=1.0),
]


def test_the_budget_names_backward_passes_and_their_share() -> None:
    drawing = budget.draw(PASSES)
    assert drawing is not None
    names = [trace["name"] for trace in drawing["data"] if trace.get("orientation") == "h"]
    assert names == ["reading the prompt 25%", "target passes 25%", "backward passes 50%"]
    assert budget.spent(PASSES)["backward"] == 0.5
    assert "backward passes took 500 ms in 1 pass" in budget.narrate(PASSES)


def test_a_backward_pass_reads_nothing_new() -> None:
    drawing = budget.draw(PASSES)
    assert drawing is not None
    assert any("<b>40</b> in all" in note["text"] for note in drawing["layout"]["annotations"])
    told = [text for trace in drawing["data"] if trace.get("xaxis") == "x2" for text in trace["customdata"]]
    assert told == ["2 × 10 tokens, 250 ms", "4 × 5 tokens, 250 ms", "back through 2 × 10 tokens, 500 ms"]


def test_on_the_timeline_gradients_flow_in_the_models_lane() -> None:
    back = Forward(lane="backward", batch=2, query=5, cached=0, seconds=0.08, began=0.32, time=0.4)
    events = ahead()
    events.insert(8, back)
    drawing = timeline.draw(events)
    assert drawing is not None
    bars = {trace["name"]: trace for trace in drawing["data"] if trace["xaxis"] == "x"}
    model, backward = bars["model"], bars["backward passes"]
    assert set(backward["y"]) == set(model["y"])
    assert backward["base"] == [0.32]
    assert "pattern" in backward["marker"], "colour alone does not tell them apart"
    assert "80 ms in 1 backward pass." in timeline.narrate(events)
    before, after = (
        timeline.clocks(timeline.timeline(ahead()).rounds),
        timeline.clocks(timeline.timeline(events).rounds),
    )
    assert after[1] - before[1] > 0.0799, "the virtual clock counts them, too"


def test_without_a_draft_there_is_still_no_timeline() -> None:
    assert not timeline.relevant(PASSES)
    assert timeline.draw(PASSES) is None

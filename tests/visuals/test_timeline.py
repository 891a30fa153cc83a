"""The timeline: whose pass, when, and whether it was for nothing."""

from __future__ import annotations

import time
from typing import Any

import pytest
from picture_streams import finished, greedy, started, token
from test_all_pictures import check

import engines
from engines.events import Commit, Draft, DraftNode, Event, Forward, Judged, Placed, Verdict
from engines.models.twin import twin
from visuals import timeline
from visuals.picture import pictures

PICTURE = pictures()["timeline"]


def target(began: float, seconds: float = 0.1) -> Forward:
    return Forward(lane="target", batch=1, query=1, cached=4, seconds=seconds, began=began, time=began + seconds)


def drafts(*began: float, seconds: float = 0.04) -> list[Event]:
    return [
        Forward(lane="draft", batch=1, query=1, cached=4, seconds=seconds, began=at, time=at + seconds) for at in began
    ]


def chain(position: int, outcomes: str, template: str = "") -> list[Event]:
    """A chain of guesses and its verdict: `a`ccepted, `r`ejected, `u`ntested, or `-`, not judged yet."""
    nodes = [DraftNode(id, id - 1, token(f"w{position + id}"), 0.5, "") for id in range(len(outcomes) + 1)]
    names = {"a": "accepted", "r": "rejected", "u": "untested"}
    judged = [Judged(id, names[what]) for id, what in enumerate(outcomes, 1) if what != "-"]  # type: ignore[arg-type]
    path = tuple(judge.id for judge in judged if judge.outcome == "accepted")
    refused = "r" in outcomes
    extra = token("extra") if refused or not outcomes.endswith("-") else None
    origin = "correction" if refused else "bonus" if extra else None
    placed = [Placed(nodes[id].token, "drafted") for id in path]
    placed += [Placed(extra, origin)] if extra else []  # type: ignore[arg-type]
    return [
        Draft(position=position, nodes=tuple(nodes), template=template),
        Verdict(position=position, rule="greedy", path=path, nodes=tuple(judged), extra=extra, extra_origin=origin),  # type: ignore[arg-type]
        Commit(position=position, step=0, tokens=tuple(placed)),
    ]


def ahead() -> list[Event]:
    """PEARL with one worker and γ = 3: a block that holds, one that fails at its second pending guess, a new start."""
    return [
        started("pearl", "speculative"),
        Forward(lane="prompt", batch=1, query=3, cached=0, seconds=0.05, time=0.05),
        target(0.1),
        *drafts(0.20, 0.24, 0.28),
        *chain(0, "a--", "pre-verify"),
        target(0.4),
        *drafts(0.50, 0.54, 0.58),
        *chain(1, "aruuu", "post-verify"),
        target(0.7, 0.15),
        *drafts(0.85, 0.89, 0.93),
        *chain(3, "ruu", "pre-verify"),
    ]


def fates(events: list[Event]) -> list[str]:
    return [bar.fate for bar in timeline.timeline(events).bars if bar.event.lane == "draft"]


def traces(drawing: Any, axis: str = "x") -> dict[str, Any]:
    return {trace["name"]: trace for trace in drawing["data"] if trace["xaxis"] == axis}


def test_a_guess_is_judged_where_it_is_tested_not_where_it_is_drafted() -> None:
    events = ahead()
    first = events.index(next(event for event in events if isinstance(event, Commit))) + 1
    assert fates(events[:first]) == ["accepted", "open", "open"]
    assert fates(events) == ["accepted", "accepted", "wasted", *["wasted"] * 6]
    assert [bar.place for bar in timeline.timeline(events).bars if bar.event.lane == "draft"] == [
        0,
        1,
        2,
        3,
        4,
        5,
        3,
        4,
        5,
    ]


def test_what_was_never_judged_was_for_nothing_in_the_end() -> None:
    events = ahead()[:9]
    assert fates([*events, finished()]) == ["accepted", "wasted", "wasted"]


def test_in_a_serial_method_the_last_passes_made_the_guesses() -> None:
    draft, *judged = chain(0, "ar")
    events = [*drafts(0.0, 0.1, 0.2, 0.3), draft, target(0.4), *judged]
    assert fates(events) == ["reading", "reading", "accepted", "wasted"]


def test_a_tree_takes_a_pass_per_level() -> None:
    shape = ((0, -1), (1, 0), (2, 0), (3, 1), (4, 2))
    nodes = tuple(DraftNode(id, parent, token(str(id)), 0.5, "") for id, parent in shape)
    outcomes = ("accepted", "untested", "rejected", "untested")
    judged = tuple(Judged(id, outcome) for id, outcome in enumerate(outcomes, 1))  # type: ignore[arg-type]
    events: list[Event] = [
        *drafts(0.0, 0.1),
        Draft(position=0, nodes=nodes),
        target(0.2),
        Verdict(position=0, rule="greedy", path=(1,), nodes=judged, extra=token("x"), extra_origin="correction"),
    ]
    assert fates(events) == ["accepted", "wasted"]


def test_the_virtual_clock_lets_the_lanes_begin_together() -> None:
    found = timeline.timeline(ahead())
    assert found.virtual
    bars = [bar for bar in found.bars if bar.event.lane != "prompt"]
    assert [bar.virtual for bar in bars] == pytest.approx(
        [0, 0, 0.04, 0.08, 0.12, 0.12, 0.16, 0.20, 0.24, 0.24, 0.28, 0.32]
    )
    assert timeline.clocks(found.rounds) == pytest.approx((0.22 + 0.22 + 0.27, 0.22 + 0.22 + 0.27, 0.12 + 0.12 + 0.15))


def test_lanes_that_do_overlap_need_no_virtual_clock() -> None:
    events = [target(0.1), *drafts(0.11, 0.15, 0.19), *chain(0, "a--", "pre-verify")]
    drawing = PICTURE.draw(events)
    assert drawing is not None
    assert not timeline.timeline(events).virtual
    assert "xaxis2" not in drawing["layout"]
    assert timeline.clocks(timeline.timeline(events).rounds) == pytest.approx((0.13, 0.22, 0.12))


def test_serial_methods_have_neither_rounds_nor_a_virtual_clock() -> None:
    draft, *judged = chain(0, "aa")
    drawing = PICTURE.draw([*drafts(0.0, 0.04), draft, target(0.1), *judged])
    assert drawing is not None
    assert drawing["layout"]["yaxis"]["ticktext"] == ["model", "draft"]
    assert "xaxis2" not in drawing["layout"]


def test_bars_stand_where_the_passes_were() -> None:
    drawing = PICTURE.draw(ahead())
    assert drawing is not None
    shown, virtual = traces(drawing), traces(drawing, "x2")
    assert (shown["model"]["base"], shown["model"]["x"]) == ([0.1, 0.4, 0.7], [0.1, 0.1, 0.15])
    assert (shown["draft ✓"]["base"], len(shown["draft ✕"]["x"])) == ([0.2, 0.24], 7)
    assert "pattern" in shown["draft ✕"]["marker"], "colour alone does not say that work was lost"
    assert "pattern" not in shown["draft ✓"]["marker"]
    assert virtual["model"]["base"] == [0.0, 0.12, 0.24]
    assert shown["pre-verify round"]["text"] == ["pre", "pre"]
    assert drawing["layout"]["yaxis"]["ticktext"] == ["round", "model", "draft"]
    ranges = [drawing["layout"][axis]["range"] for axis in ("xaxis", "xaxis2")]
    assert ranges[0][1] - ranges[0][0] == pytest.approx(ranges[1][1] - ranges[1][0]), "seconds are equally long"


def test_the_legend_names_the_rounds_and_tells_them_apart_without_colour() -> None:
    shown = traces(PICTURE.draw(ahead()) or {})
    before, after = shown["pre-verify round"], shown["post-verify round"]
    assert all(trace.get("showlegend", True) for trace in (before, after))
    assert before["marker"]["pattern"] != after["marker"]["pattern"]


def test_a_round_is_named_only_where_there_is_room_and_begins_in_the_picture() -> None:
    events: list[Event] = []
    for step in range(40):  # four seconds, of which three are shown
        events += [target(step * 0.1, 0.05), *drafts(step * 0.1), *chain(step, "a-", "pre-verify")]
    events += [target(4.0, 0.53), *drafts(4.0), *chain(40, "a-", "post-verify")]
    drawing = PICTURE.draw(events)
    assert drawing is not None
    shown = traces(drawing)
    assert set(shown["pre-verify round"]["text"]) == {""}
    assert shown["post-verify round"]["text"] == ["post"]
    assert min(shown["pre-verify round"]["base"]) >= drawing["layout"]["xaxis"]["range"][0]


def test_a_hair_thin_pass_that_led_to_an_accepted_guess_can_be_seen() -> None:
    marker = traces(PICTURE.draw(ahead()) or {})["draft ✓"]["marker"]
    assert marker["line"]["color"] == marker["color"], "an outline like the panel would leave nothing of it"


def test_the_axes_say_which_clock_they_are_and_nothing_stands_over_the_bars() -> None:
    layout = (PICTURE.draw(ahead()) or {})["layout"]
    titles = [layout[axis]["title"]["text"] for axis in ("xaxis", "xaxis2")]
    assert titles == ["seconds of decode time", "virtual seconds: a machine for each model"]
    assert "annotations" not in layout


def test_only_the_last_seconds_are_drawn_and_all_are_in_the_table() -> None:
    events: list[Event] = []
    for step in range(40):
        draft, *judged = chain(step, "a")
        events += [*drafts(step * 0.2), draft, target(step * 0.2 + 0.05), *judged]
    drawing = PICTURE.draw(events)
    assert drawing is not None
    start, end = drawing["layout"]["xaxis"]["range"]
    assert (start, end) == pytest.approx((end - 3, 7.95))
    assert min(traces(drawing)["model"]["base"]) > start - 0.1
    assert len(PICTURE.table(events)) == 80


def test_it_is_about_two_lanes() -> None:
    assert not PICTURE.relevant(greedy())
    assert not PICTURE.relevant(drafts(0.0))
    assert PICTURE.relevant([*drafts(0.0), target(0.1)])


def test_passes_that_do_not_say_when_they_began_are_placed_by_their_report() -> None:
    old = Forward(lane="target", batch=1, query=1, cached=4, seconds=0.1, time=0.5)
    assert timeline.timeline([old]).bars[0].begin == pytest.approx(0.4)


def test_the_narration_counts() -> None:
    said = PICTURE.narrate(ahead())
    assert "Of 9 draft passes 2 led to an accepted guess, 7 were for nothing." in said
    assert "2 rounds were pre-verify and 1 post-verify; the longest stretch without a break gave 3 tokens." in said
    assert "0.39" in said or "390 ms on the virtual clock" in said
    draft, *judged = chain(0, "aa")
    assert "They took turns" in PICTURE.narrate([*drafts(0.0, 0.04), draft, target(0.1), *judged])


def decode(method: str, length: int) -> list[Event]:
    params = {"temperature": 1.0}
    return list(engines.run(twin(), method, "addddcadd", params=params, raw=True, seed=1, max_new_tokens=length))


@pytest.mark.parametrize("method", ["pearl", "speculative-sampling"])
def test_any_prefix_of_a_real_run(method: str) -> None:
    events = decode(method, 60)
    for stop in range(len(events) + 1):
        check(PICTURE, events[:stop])
    drawn = {bar.fate for bar in timeline.timeline(events).bars}
    assert {"prompt", "target", "accepted", "wasted"} <= drawn
    assert "open" not in drawn


def test_verdicts_without_an_extra_token_can_be_drawn_by_every_picture() -> None:
    events = decode("pearl", 20)
    assert any(isinstance(event, Verdict) and event.extra is None for event in events)
    for picture in pictures().values():
        for stop in range(0, len(events) + 1, 3):
            check(picture, events[:stop])


def test_a_long_run_is_drawn_at_once() -> None:
    events: list[Event] = [started("pearl", "speculative")]
    for step in range(400):
        events += [target(step * 0.2), *drafts(step * 0.2, step * 0.2 + 0.05), *chain(2 * step, "aa-", "post-verify")]
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        PICTURE.draw(events)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.1, "about 8 ms on a quiet machine"
    print(f"{1000 * min(seconds):.1f} ms")

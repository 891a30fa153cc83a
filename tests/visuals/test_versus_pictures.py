"""Pictures of several runs: worked numbers, every prefix, hostile titles, and the rules of all drawings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from engines.events import (
    Commit,
    Curve,
    Draft,
    DraftNode,
    Event,
    Finished,
    Forward,
    Judged,
    Placed,
    Started,
    Token,
    Totals,
    Verdict,
)
from visuals.palette import LIGHT, contrast, dark_of
from visuals.picture import Picture
from visuals.versus import VERSUS
from visuals.versus.lanes import AXES, COLOURS, DASHES, SYMBOLS, Lane, course, lanes, median_round
from visuals.versus.overhead import OVERHEADS, places
from visuals.versus.speed import ratios
from visuals.versus.theory import Drafting, chain, drafting, machine, measured, seconds

FLAT = Curve(name="t(q)", x_name="new tokens", y_name="seconds", x=(1.0, 64.0), y=(0.1, 0.1))
RISING = Curve(name="t(q)", x_name="new tokens", y_name="seconds", x=(1.0, 3.0), y=(0.1, 0.2))

every_picture = pytest.mark.parametrize("picture", VERSUS.values(), ids=list(VERSUS))


def token(id: int = 1) -> Token:
    return Token(id, f"t{id}")


def started() -> Started:
    return Started(
        model="m", weights="w", precision="float32", method="x", family="f", lossless=True, params={}, prompt="p",
        prompt_tokens=(), prompt_length=1, seed=0, max_new_tokens=8, raw_prompt=True, versions={}, machine="m",
    )  # fmt: skip


def finished(tokens: int, time: float) -> Finished:
    totals = Totals(
        tokens=tokens, seconds=time, time_to_first_token=0.0, target_passes=1, prompt_passes=0, draft_passes=0,
        tokens_processed=1, drafted=0, accepted=0, rejected=0, untested=0,
        tokens_per_second=tokens / time, tokens_per_target_pass=1.0, acceptance_rate=None,
    )  # fmt: skip
    return Finished(reason="token limit", text="", token_ids=(), totals=totals, time=time)


def plain(count: int = 4, each: float = 0.1) -> list[Event]:
    """One token per pass."""
    events: list[Event] = [started(), Forward(lane="prompt", batch=1, query=5, cached=0, seconds=each)]
    for place in range(count):
        events.append(Forward(lane="target", batch=1, query=1, cached=5 + place, seconds=each))
        placed = (Placed(token(), "sampled"),)
        events.append(Commit(position=place, step=place, tokens=placed, time=each * (place + 1)))
    return [*events, finished(count, each * count)]


def guessing(*accepted: int, gamma: int = 2, draft: float = 0.0, each: float = 0.1) -> list[Event]:
    """Passes that check `gamma` guesses in a row each, of which so many are accepted."""
    events: list[Event] = [started()]
    position = 0
    for step, good in enumerate(accepted):
        nodes = [DraftNode(id=id, parent=id - 1, token=token(id), q=None, source="") for id in range(gamma + 1)]
        if draft:
            events += [Forward(lane="draft", batch=1, query=1, cached=0, seconds=draft)] * gamma
        events.append(Draft(position=position, nodes=tuple(nodes)))
        events.append(Forward(lane="target", batch=1, query=gamma + 1, cached=0, seconds=each))
        outcomes = ["accepted"] * good + ["rejected"] * (good < gamma) + ["untested"] * (gamma - good - 1)
        judged = tuple(Judged(id=id, outcome=what) for id, what in enumerate(outcomes, 1))  # type: ignore[arg-type]
        path = tuple(range(1, good + 1))
        origin = "bonus" if good == gamma else "correction"
        events.append(
            Verdict(position=position, rule="greedy", path=path, nodes=judged, extra=token(9), extra_origin=origin)  # type: ignore[arg-type]
        )
        placed = [*[Placed(token(id), "drafted") for id in path], Placed(token(9), origin)]  # type: ignore[arg-type]
        events.append(Commit(position=position, step=step, tokens=tuple(placed), time=each * (step + 1)))
        position += len(placed)
    return [*events, finished(position, each * len(accepted))]


def two(*others: Sequence[Event], title: str = "Guesser") -> list[Lane]:
    return lanes([("Greedy", [plain()]), *((title, [events]) for events in others)])


# Progress


def test_a_course_counts_tokens_passes_and_tokens_processed() -> None:
    points = [
        (point.tokens, point.target, point.passes, point.processed, point.seconds)
        for point in course(guessing(2, 0, draft=0.01))
    ]
    assert points == [(0, 0, 0, 0, 0.0), (3, 1, 3, 5, 0.1), (4, 2, 6, 10, 0.2)]


def test_given_tokens_are_nobodys_progress() -> None:
    given = Commit(position=0, step=0, tokens=(Placed(token(), "given"),))
    assert [point.tokens for point in course([started(), given, *plain(1)[1:]])] == [0, 1]


@pytest.mark.parametrize(
    ("clock", "x"), [("target", [0, 1, 2]), ("passes", [0, 1, 2]), ("processed", [0, 3, 6]), ("seconds", [0, 0.1, 0.2])]
)
def test_progress_is_drawn_against_the_clock_that_is_asked_for(clock: str, x: list[float]) -> None:
    drawing = VERSUS["versus-progress"].draw(two(guessing(2, 0)), clock)
    assert drawing is not None
    assert (drawing["data"][1]["x"], drawing["data"][1]["y"]) == (x, [0, 3, 4])
    assert drawing["layout"]["xaxis"]["title"]["text"] == AXES[clock]


def test_an_unknown_clock_is_refused() -> None:
    with pytest.raises(KeyError):
        VERSUS["versus-progress"].draw(two(plain()), "sundial")


def test_the_round_of_median_time_that_all_finished_is_shown() -> None:
    slow, middle, fast = plain(each=0.3), plain(each=0.2), plain(each=0.1)
    assert median_round(lanes([("A", [slow, fast, middle]), ("B", [slow, fast, middle])])) == 2
    assert median_round(lanes([("A", [slow, fast]), ("B", [slow[:-1], fast])])) == 1
    assert median_round([]) == median_round(lanes([("A", []), ("B", [])])) == 0


# Speed


def test_ratios_are_taken_within_rounds() -> None:
    base, other = lanes([("A", [plain(each=0.1), plain(each=0.4)]), ("B", [plain(each=0.2), plain(each=0.1)])])
    assert ratios(other, base) == pytest.approx([0.5, 4.0])


def test_speed_shows_median_range_and_every_round() -> None:
    drawing = VERSUS["versus-speed"].draw(lanes([("A", [plain(each=each) for each in (0.1, 0.2, 0.5)])]))
    assert drawing is not None
    bars, dots, words = drawing["data"]
    assert (bars["x"], bars["error_x"]["array"], bars["error_x"]["arrayminus"]) == ([5.0], [5.0], [3.0])
    assert dots["x"] == [10.0, 5.0, 2.0]
    assert words["text"] == ["5.0"]


def test_slower_is_said_in_words() -> None:
    said = VERSUS["versus-speed"].narrate(two(plain(each=0.2)))
    assert "0.50 times the speed of A, so slower" in said


# Overhead


def overhead_drawing(all_lanes: list[Lane]) -> dict[str, Any]:
    drawing = VERSUS["versus-overhead"].draw(all_lanes)
    assert drawing is not None
    return drawing


def test_a_pass_that_takes_half_as_long_again_has_an_overhead_of_fifty_per_cent() -> None:
    base, other = places(two(guessing(2, 0, each=0.15)))
    assert (base.tokens, base.speed_up, base.overhead) == (1, 1, 0)
    assert (other.tokens, other.speed_up, other.overhead) == pytest.approx((2, 4 / 3, 0.5))


def test_the_point_lies_on_the_line_of_its_overhead() -> None:
    *_, base, other = (drawing := overhead_drawing(two(guessing(2, 0, each=0.15))))["data"]
    lines = drawing["data"][: len(OVERHEADS)]
    slopes = [line["y"][1] / line["x"][1] for line in lines]
    assert slopes == pytest.approx([1, 1 / 1.25, 1 / 1.5, 1 / 2, 1 / 3], rel=1e-3)
    assert other["y"][0] / other["x"][0] == pytest.approx(slopes[2], rel=1e-3)
    assert base["y"][0] / base["x"][0] == pytest.approx(slopes[0], rel=1e-3)


def test_overhead_is_counted_from_a_baseline_that_guesses_too() -> None:
    all_lanes = lanes([("Guesser", [guessing(2, 0)]), ("Greedy", [plain()])])
    assert [(one.tokens, one.speed_up, one.overhead) for one in places(all_lanes)] == [(2, 1, 0), (1, 0.5, 0)]
    free = overhead_drawing(all_lanes)["data"][0]
    assert free["y"][1] / free["x"][1] == pytest.approx(1 / 2, rel=1e-3)


def test_every_line_reaches_an_edge_and_carries_its_name() -> None:
    drawing = overhead_drawing(two(guessing(2, 0), guessing(2, 2, each=0.4)))
    right, top = (drawing["layout"][name]["range"][1] for name in ("xaxis", "yaxis"))
    for percent, line in zip(OVERHEADS, drawing["data"], strict=False):
        (_, x), (_, y) = line["x"], line["y"]
        assert line["text"] == ["", f"+{percent} %"]
        assert x == pytest.approx(right, rel=1e-3) or y == pytest.approx(top, rel=1e-3)
        assert x <= right * 1.001
        assert y <= top * 1.001
    assert all(point["x"][0] < right and point["y"][0] < top for point in drawing["data"][len(OVERHEADS) :])


def test_only_rounds_that_came_to_their_end_count_for_the_overhead() -> None:
    half = guessing(0, 0, 0)[:-1]
    (_, other) = places(lanes([("A", [plain(), plain()]), ("B", [guessing(2, 0), half])]))
    assert other.tokens == 2
    assert [one.lane.letter for one in places(lanes([("A", [plain()]), ("B", [half])]))] == ["A"]
    assert places(lanes([("A", [plain()[:-1]]), ("B", [plain()])])) == []


def test_the_price_of_a_pass_is_said_in_words() -> None:
    narrate = VERSUS["versus-overhead"].narrate
    said = narrate(two(guessing(2, 0, each=0.15), guessing(0, 0, each=0.2), guessing(2, 0, each=0.1)))
    assert "A, Greedy: 1.00 tokens per target pass; it is the baseline." in said
    assert "2.00 tokens per target pass, and a pass takes 50 % longer than one of A: 1.33 times the speed of A." in said
    assert "a pass takes 100 % longer than one of A: 0.50 times the speed of A, so slower." in said
    assert "a pass takes as long as one of A: 2.00 times" in said
    assert "a pass takes 50 % less than one of A" in narrate(two(plain(each=0.05)))


def test_every_point_has_letter_symbol_and_name() -> None:
    points = overhead_drawing(lanes([(f"m{n}", [guessing(2, 1)]) for n in range(4)]))["data"][len(OVERHEADS) :]
    assert [point["text"] for point in points] == [["A"], ["B"], ["C"], ["D"]]
    assert [point["name"] for point in points] == ["A  m0", "B  m1", "C  m2", "D  m3"]
    assert len({point["marker"]["symbol"] for point in points}) == 4
    assert len({point["textposition"] for point in points}) == 4


# Theory


def test_letters_of_points_that_fall_together_stand_on_different_sides() -> None:
    points = overhead_drawing(lanes([(f"m{n}", [guessing(2, 1)]) for n in range(4)]))["data"][len(OVERHEADS) :]
    assert len({point["textposition"] for point in points}) == 4


def test_a_letter_stands_on_the_side_where_nothing_else_is() -> None:
    """B lies a little to the right of A, so its letter does not stand between them."""
    *_, base, other = overhead_drawing(two(guessing(1, 0)))["data"]
    assert other["x"][0] > base["x"][0]
    assert base["textposition"].endswith("left")
    assert other["textposition"].endswith("right")


def test_the_papers_formulas_hold_for_one_gamma_and_a_flat_curve() -> None:
    alpha, gamma, cost = 0.8, 5, 0.05
    expected = (1 - alpha ** (gamma + 1)) / (1 - alpha)
    drafts = Drafting(((gamma, gamma + 1, 7),), alpha, cost)
    assert drafts.tokens(alpha) == pytest.approx(expected)
    assert drafts.speed_up(alpha, FLAT) == pytest.approx(expected / (gamma * cost + 1))
    assert drafts.speed_up(alpha, FLAT, cheaper=5) == pytest.approx(expected / (gamma * cost / 5 + 1))


def test_the_ends_of_the_curve() -> None:
    assert (chain(0, 4), chain(1, 4), chain(0.5, 1), chain(0.3, 0)) == (1, 5, 1.5, 1)


def test_a_pass_that_costs_more_is_paid_for() -> None:
    drafts = Drafting(((2, 3, 1),), 0.5, 0.0)
    assert drafts.speed_up(0.5, RISING) == pytest.approx(1.75 / 2)


def test_passes_without_guesses_bring_one_token() -> None:
    drafts = Drafting(((0, 1, 1), (2, 3, 1)), 1.0, 0.0)
    assert drafts.tokens(1.0) == 2
    assert drafts.speed_up(1.0, RISING) == pytest.approx(4 / 3)


def test_the_cost_of_a_pass_is_read_between_and_beyond_the_measured_sizes() -> None:
    assert [seconds(RISING, q) for q in (1, 2, 3, 6)] == pytest.approx([0.1, 0.15, 0.2, 0.4])


def test_alpha_is_accepted_over_tested_for_a_chain() -> None:
    (_, lane) = two(guessing(2, 1, 0))
    drafts = drafting(lane, FLAT)
    assert drafts is not None
    assert drafts.alpha == pytest.approx(3 / 5)
    assert drafts.passes == ((2, 3, 3),)
    assert drafts.cost == 0


def test_a_plain_pass_after_one_with_guesses_has_none() -> None:
    events = [*guessing(1)[:-1], Forward(lane="target", batch=1, query=1, cached=0, seconds=0.1)]
    drafts = drafting(lanes([("Guesser", [events])])[0], FLAT)
    assert drafts is not None
    assert drafts.passes == ((0, 1, 1), (2, 3, 1))


def test_a_tree_that_holds_the_right_token_counts_as_one_hit() -> None:
    nodes = (
        DraftNode(id=0, parent=0, token=token(0), q=None, source=""),
        *(DraftNode(id=id, parent=0, token=token(id), q=None, source="") for id in (1, 2, 3)),
    )
    judged = (Judged(id=1, outcome="rejected"), Judged(id=2, outcome="accepted"), Judged(id=3, outcome="rejected"))
    events: list[Event] = [
        Draft(position=0, nodes=nodes),
        Forward(lane="target", batch=1, query=4, cached=0, seconds=0.1),
        Verdict(position=0, rule="greedy", path=(2,), nodes=judged, extra=token(9), extra_origin="bonus"),
    ]
    drafts = drafting(lanes([("Tree", [events])])[0], FLAT)
    assert drafts is not None
    assert (drafts.alpha, drafts.passes) == (1.0, ((1, 4, 1),))


def test_the_cost_of_a_guess_is_measured_in_plain_passes() -> None:
    drafts = drafting(two(guessing(2, 1, draft=0.02))[1], FLAT)
    assert drafts is not None
    assert drafts.cost == pytest.approx(0.2)


def test_the_measured_point_is_where_it_was_measured() -> None:
    (found,) = measured(two(guessing(2, 0)), FLAT)
    assert found.tokens == 2.0
    assert found.drafts.alpha == pytest.approx(2 / 3)
    assert found.speed_up == pytest.approx(2.0)


def test_a_cheaper_draft_moves_the_curve_and_not_the_measurement() -> None:
    all_lanes = two(guessing(2, 1, draft=0.05))
    theory = VERSUS["versus-theory"]
    now, cheap = theory.draw(all_lanes, 1.0, FLAT), theory.draw(all_lanes, 10.0, FLAT)
    assert now is not None
    assert cheap is not None
    assert cheap["data"][2]["y"][25] > now["data"][2]["y"][25]
    assert cheap["data"][3]["y"] == now["data"][3]["y"]
    assert cheap["data"][4]["text"] == ["B, cheaper"]
    assert "10 times cheaper" in json.dumps(cheap["layout"]["annotations"])


def test_without_a_draft_model_guesses_cost_nothing_and_it_is_said() -> None:
    drawing = VERSUS["versus-theory"].draw(two(guessing(1, 2)), 10.0, FLAT)
    assert drawing is not None
    assert "c = 0" in json.dumps(drawing["layout"]["annotations"])
    assert "no draft model" in VERSUS["versus-theory"].narrate(two(guessing(1, 2)))


def test_without_a_measured_curve_the_passes_of_the_runs_are_one() -> None:
    curve = machine(two(guessing(2, each=0.3)))
    assert curve is not None
    assert (curve.x, curve.y) == ((1.0, 3.0), (0.1, 0.3))
    assert machine(lanes([("Guesser", [guessing(2)])])) is None
    assert machine(two(guessing(2)), RISING) is RISING


# Every picture


@every_picture
def test_every_prefix_of_any_streams_can_be_drawn(picture: Picture) -> None:
    base, other = plain(), guessing(2, 1, 0, draft=0.01)
    for now in range(len(other) + 1):
        for some in ([base[:now], other[:now]], [base, other[:now]], [[], other[:now]]):
            all_lanes = lanes([("A", [some[0]]), ("B", [some[1]])])
            checked(picture.draw(all_lanes))
            picture.table(all_lanes)
            assert picture.narrate(all_lanes).endswith(".")
    assert picture.draw([]) is None
    assert picture.draw(lanes([("A", []), ("B", [])])) is None
    assert picture.table([]) == []


@every_picture
def test_four_contestants_differ_by_more_than_colour(picture: Picture) -> None:
    drawing = picture.draw(lanes([(f"m{n}", [guessing(2, 1)]) for n in range(4)]))
    checked(drawing)
    assert len({*COLOURS}) == len({*DASHES}) == len({*SYMBOLS}) == 4
    assert all(contrast(colour, LIGHT["panel"]) >= 4.5 and colour in dark_of for colour in COLOURS)


@every_picture
def test_a_title_never_becomes_markup(picture: Picture) -> None:
    hostile = lanes([("<script>alert(1)</script>", [plain()]), ("<a href=x>$x$&lt;", [guessing(2, 1)])])
    drawing = picture.draw(hostile)
    assert drawing is not None
    for string in strings(drawing):
        assert "<script" not in string
        assert "<a" not in string
        assert "$x$" not in string
    checked(drawing)


@every_picture
def test_all_rows_of_a_table_have_the_same_columns(picture: Picture) -> None:
    rows = picture.table(two(guessing(2, 1)))
    assert rows
    assert len({tuple(row) for row in rows}) == 1


def checked(drawing: dict[str, Any] | None) -> None:
    """The rules for all drawings: JSON, colours of the palette, type that can be read."""
    if drawing is None:
        return
    assert json.loads(json.dumps(drawing, allow_nan=False)) == drawing
    assert drawing["layout"]["height"] >= 150
    assert drawing["layout"]["uirevision"] == "keep"
    for string in strings(drawing):
        for tag in re.findall(r"<[^>]*>?", string):
            assert tag in {"<extra>", "</extra>"}, string
        if re.fullmatch(r"#[0-9a-fA-F]{3,8}", string):
            assert string in dark_of


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)

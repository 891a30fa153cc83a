"""Convergence: a curve of three texts with its numbers, then odd streams and a real run."""

from __future__ import annotations

import json
from typing import Any

import pytest
from picture_streams import started

from engines.events import Event, Growth, Place, Score
from engines.models.twin import twin
from engines.runner import run
from visuals import convergence
from visuals.palette import dark_of
from visuals.picture import pictures


def text(
    sample: int, root: float, before: float | None = None, after: float | None = None, **parts: float
) -> list[Event]:
    known = {"distance before": before, "distance after": after}
    parts |= {name: value for name, value in known.items() if value is not None}
    places = (Place(0, -1, None, None, root, sample + 1), Place(1, 0, None, 0.5, 0.9))
    return [
        Growth(tree="trie", sample=sample, places=places, size=2),
        Score(name="root value c~", value=0.123, parts=parts, sequence=sample, text="x"),
    ]


def stream() -> list[Event]:
    exact = {"P(L)": 0.0233}
    return [
        started("asap", "constrained"),
        *text(0, 0.5, 0.44, 0.61, **exact, output=1.0),
        *text(1, 0.25, 0.61, 0.8, **exact, output=0.0),
        *text(2, 0.1, 0.8, 0.05, **exact, output=1.0),
    ]


def drawn(events: list[Event]) -> dict[str, Any]:
    drawing = convergence.draw(events)
    assert drawing is not None
    return drawing


def curves(events: list[Event]) -> list[tuple[list[float], list[float]]]:
    return [(trace["x"], trace["y"]) for trace in drawn(events)["data"]]


def test_the_roots_values_stand_at_their_texts_and_the_truth_is_a_line() -> None:
    exact, roots, _ = curves(stream())
    assert roots == ([1, 2, 3], [0.5, 0.25, 0.1])
    assert exact == ([0, 3], [0.0233, 0.0233])


def test_the_distance_begins_before_the_first_text() -> None:
    assert curves(stream())[2] == ([0, 1, 2, 3], [0.44, 0.61, 0.8, 0.05])


def test_a_text_that_came_to_nothing_has_another_mark() -> None:
    assert drawn(stream())["data"][1]["marker"]["symbol"] == ["circle", "x-thin-open", "circle"]


def test_without_a_known_law_there_is_one_curve() -> None:
    events = [*text(0, 0.5), *text(1, 0.4)]
    assert curves(events) == [([1, 2], [0.5, 0.4])]
    assert convergence.narrate(events) == (
        "After 2 texts the root is worth 0.4; after the first it was 0.5. There are too many valid texts to know how "
        "far their law is from the model's own."
    )


def test_narration_tells_of_the_detour() -> None:
    assert convergence.narrate(stream()) == (
        "After 3 texts the root is worth 0.1; after the first it was 0.5. The model's own probability of a valid text "
        "is 0.0233. The law of the next text is 0.050 from the model's own, at first 0.440. It was farthest after 2 "
        "texts, 0.800. 1 of the texts came to nothing."
    )
    straight = [*text(0, 0.5, 0.4, 0.3)]
    assert "farthest" not in convergence.narrate(straight)


def test_the_chosen_texts_second_score_changes_nothing() -> None:
    again = Score(name="root value c~", value=0.123, parts=stream()[-1].parts, chosen=True, sequence=2)  # type: ignore[attr-defined]
    assert convergence.draw([*stream(), again]) == convergence.draw(stream())
    assert len(convergence.table([*stream(), again])) == 3


def test_other_methods_scores_are_not_texts() -> None:
    foreign = Score(name="reward", value=0.3, parts={"distance after": 0.5}, sequence=9)
    assert not convergence.relevant([foreign])
    assert convergence.draw([*stream(), foreign]) == convergence.draw(stream())


def test_the_table_has_a_row_a_text() -> None:
    rows = convergence.table(stream())
    assert [row["root_value"] for row in rows] == [0.5, 0.25, 0.1]
    assert [row["distance_after"] for row in rows] == [0.61, 0.8, 0.05]
    assert [row["output"] for row in rows] == [True, False, True]
    assert {row["valid_probability"] for row in rows} == {0.0233}


@pytest.mark.parametrize("values", [(0.5, 0.45), (1e-9, 1e-300), (0.0, 0.0), (1.0, 1.0)])
def test_the_axis_has_a_few_ticks_wherever_the_values_lie(values: tuple[float, float]) -> None:
    axis = drawn([*text(0, values[0]), *text(1, values[1])])["layout"]["yaxis"]
    assert 1 <= len(axis["tickvals"]) <= 9
    low, high = (10.0**end for end in axis["range"])
    assert all(low <= value <= high for value in values if value > 0)


def test_odd_numbers_do_no_harm() -> None:
    nan, huge = float("nan"), float("inf")
    for value in (nan, huge, -huge, -1.0, 7.0, 0.0):
        events = [*text(0, 0.5, value, value, **{"P(L)": value}), *text(1, value, 0.5, value), *text(-3, 0.2)]
        for stop in range(len(events) + 1):
            drawing = convergence.draw(events[:stop])
            json.dumps(drawing, allow_nan=False)
            assert (drawing is not None) == convergence.relevant(events[:stop])
            assert convergence.narrate(events[:stop]).endswith(".")


def test_what_is_not_a_probability_is_not_shown() -> None:
    assert convergence.read(text(0, 7.0)) == ([], None)
    assert convergence.read(text(0, 0.5, -0.2, 1.7, **{"P(L)": 3.0})) == ([convergence.Point(0, 0.5)], None)


def test_every_colour_has_a_dark_counterpart_and_a_phone_is_wide_enough() -> None:
    drawing = drawn(stream())
    assert {trace["line"]["color"] for trace in drawing["data"]} <= dark_of.keys()
    assert drawing["min_width"] <= 340


def test_a_real_run_comes_to_the_law() -> None:
    params = {"grammar": "[ab]{2}|c", "samples": 60}
    events = list(run(twin(), "asap", "abc", params=params, raw=True, max_new_tokens=6))
    points, exact = convergence.read(events)
    assert len(points) == 60
    roots = [point.root for point in points if point.root is not None]
    assert roots == sorted(roots, reverse=True)
    assert exact is not None
    assert roots[-1] >= exact - 1e-6
    assert convergence.distances(points)[-1][1] <= 0.02
    masked = list(run(twin(), "asap", "abc", params=params | {"variant": "gcd"}, raw=True, max_new_tokens=6))
    way = convergence.distances(convergence.read(masked)[0])
    assert {round(value, 6) for _, value in way} == {round(way[0][1], 6)}


def test_the_picture_is_registered() -> None:
    assert pictures()["convergence"].draw is convergence.draw

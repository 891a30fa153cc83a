"""The arena: two engines in two tiers with every number known, odd streams, and a real run."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from picture_streams import started

from engines.events import Compiled, Event
from engines.models.causal import CausalModel
from engines.runner import run
from visuals import arena
from visuals.palette import dark_of
from visuals.picture import pictures


def verdict(
    engine: str, subject: str, kind: str, seconds: float = 0.01, p99: float | None = None, message: str = ""
) -> Compiled:
    status = kind if kind in ("refused", "failed", "too slow") else "ok"
    sizes = {kind: 1.0} | ({"seconds per token, p99": p99, "invalid accepted": 1.0} if p99 is not None else {})
    return Compiled(engine=engine, subject=subject, status=status, seconds=seconds, message=message, sizes=sizes)  # type: ignore[arg-type]


def stream() -> list[Event]:
    """llguidance: right, order only, refused. xgrammar: under, under, over; then both, and too slow."""
    return [
        started("schema-arena", "labs"),
        verdict("llguidance", "hard/a", "right", 0.002, 0.0001),
        verdict("xgrammar", "hard/a", "under", 0.1, 0.00001),
        verdict("llguidance", "hard/b", "order only", 0.004, 0.0004),
        verdict("xgrammar", "hard/b", "under", 0.2, 0.00002),
        verdict("llguidance", "hard/c", "refused", message="cannot enforce: not"),
        verdict("xgrammar", "hard/c", "over", 0.3, 0.00003),
        verdict("xgrammar", "ultra/d", "too slow", 10),
        verdict("xgrammar", "ultra/e", "both", 0.5, 0.001),
    ]


def drawn(events: list[Event]) -> dict[str, Any]:
    drawing = arena.draw(events)
    assert drawing is not None
    return drawing


def bars(drawing: dict[str, Any]) -> dict[str, list[int]]:
    return {trace["name"]: trace["x"] for trace in drawing["data"] if trace["type"] == "bar"}


def test_bars_are_schemas_a_row_per_engine_and_tier() -> None:
    drawing = drawn(stream())
    assert drawing["layout"]["yaxis"]["ticktext"] == ["llguidance · hard ", "xgrammar · hard ", "xgrammar · ultra "]
    assert bars(drawing) == {
        "✓ right": [1, 0, 0],
        "✓ right but for order": [1, 0, 0],
        "− too strict": [0, 1, 0],
        "+ too lax": [0, 2, 0],
        "± both": [0, 0, 1],
        "· refused aloud": [1, 0, 0],
        "✕ too slow": [0, 0, 1],
    }


def test_no_two_verdicts_look_alike_even_without_colours() -> None:
    looks = [(pattern, sign) for _, pattern, sign, _ in arena.CLASSES.values()]
    assert len(set(looks)) == len(looks)
    for trace in drawn(stream())["data"]:
        if trace["type"] == "bar":
            for length, text in zip(trace["x"], trace["text"], strict=True):
                assert text.endswith(str(length)) if length else text == ""


def test_points_are_the_median_first_mask_and_the_worst_percentile_of_what_was_taken() -> None:
    points = {
        trace["name"]: list(zip(trace["x"], trace["y"], strict=True))
        for trace in drawn(stream())["data"]
        if trace["type"] == "scatter"
    }
    assert points == {"llguidance": [(0.003, 0.0004)], "xgrammar": [(0.2, 0.00003), (0.5, 0.001)]}
    layout = drawn(stream())["layout"]
    assert layout["xaxis2"]["type"] == layout["yaxis2"]["type"] == "log"
    assert layout["xaxis2"]["range"] == [-3, 0]
    assert layout["yaxis2"]["range"] == [-5, -3]
    assert layout["xaxis2"]["ticktext"] == ["1 ms", "10 ms", "100 ms", "1 s"]
    assert layout["yaxis2"]["ticktext"] == ["10 µs", "100 µs", "1 ms"]


def test_without_times_there_are_bars_alone() -> None:
    drawing = drawn([verdict("llguidance", "hard/a", "refused")])
    assert [trace["type"] for trace in drawing["data"]] == ["bar"]
    assert "xaxis2" not in drawing["layout"]


def test_a_schema_that_comes_twice_counts_once() -> None:
    events: list[Event] = [verdict("x", "hard/a", "under"), verdict("x", "hard/a", "right")]
    assert bars(drawn(events)) == {"✓ right": [1]}


def test_what_was_compiled_elsewhere_is_not_the_arenas() -> None:
    other = Compiled(engine="syncode", subject="json schema", status="ok", seconds=0.1, sizes={"entries": 3.0})
    assert not arena.relevant([other])
    assert arena.draw([other]) is None
    assert arena.table([other]) == []


def test_the_table_has_a_row_per_schema_and_engine() -> None:
    rows = arena.table(stream())
    assert len(rows) == 8
    assert rows[0] == {
        "tier": "hard",
        "schema": "a",
        "engine": "llguidance",
        "verdict": "right",
        "invalid_accepted": 1.0,
        "valid_refused": None,
        "refused_for_order": None,
        "mask_and_commit_differ": None,
        "seconds_to_first_mask": 0.002,
        "seconds_per_token_p50": None,
        "seconds_per_token_p99": 0.0001,
        "message": "",
    }
    assert [row["message"] for row in rows if row["verdict"] == "refused"] == ["cannot enforce: not"]


def test_narration_says_who_is_wrong_in_silence() -> None:
    assert arena.narrate(stream()) == (
        "llguidance: of 3 schemas 2 right (1 of them but for the order of properties), 0 taken and not kept, 1 refused"
        " aloud, 0 failed or too slow. xgrammar: of 5 schemas 0 right (0 of them but for the order of properties), 4"
        " taken and not kept, 0 refused aloud, 1 failed or too slow. xgrammar let invalid texts pass for 3 schemas."
    )
    assert arena.narrate([]) == "No engine has been put to the test yet."


def strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [found for item in items for found in strings(item)]


def test_names_and_messages_of_strangers_are_harmless() -> None:
    evil = "<script>alert(1)</script>\n\u202e" * 20
    events: list[Event] = [
        verdict(evil, f"{evil}/{evil}", kind, seconds, 0.1, evil)
        for kind in arena.CLASSES
        for seconds in (math.nan, math.inf, -1.0, 0.0, 1e-300)
    ]
    drawing = drawn(events)
    json.dumps(drawing, allow_nan=False)
    for string in strings(drawing):
        assert "<script" not in string
        assert "\u202e" not in string
        assert "\n" not in string
        assert len(string) < 400
    assert arena.narrate(events).endswith(".")
    json.dumps(arena.table(events), allow_nan=False)


def test_many_engines_and_tiers_are_bounded_and_fit_a_phone() -> None:
    events: list[Event] = [verdict(f"engine {n % 9}", f"tier {n % 80}/{n}", "right", 0.1, 0.01) for n in range(2000)]
    drawing = drawn(events)
    assert len(drawing["layout"]["yaxis"]["ticktext"]) == arena.MOST_ROWS
    assert drawing["layout"]["height"] < 2000
    assert drawing["min_width"] <= 360
    assert "width" not in drawing["layout"]


def test_every_colour_has_a_dark_counterpart() -> None:
    for string in strings(drawn(stream())):
        if string.startswith("#"):
            assert string in dark_of


def test_it_is_found_under_its_name() -> None:
    assert pictures()["arena"].draw is arena.draw


@pytest.mark.parametrize("whitespace", ["compact", "one space"])
def test_a_real_run_is_drawn_at_every_moment(tiny_llama: CausalModel, whitespace: str) -> None:
    params = {"engines": "llguidance", "tier": "hard", "whitespace": whitespace}
    events = list(run(tiny_llama, "schema-arena", "Hello", params=params))
    for stop in range(len(events) + 1):
        arena.draw(events[:stop])
        assert arena.narrate(events[:stop]).endswith(".")
    drawing = drawn(events)
    assert sum(map(sum, bars(drawing).values())) == 6
    assert bars(drawing)["· refused aloud"] == [3]

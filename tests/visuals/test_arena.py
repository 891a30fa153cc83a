"""The arena: two engines in two tiers with every number known, odd streams, and a real run."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import plotly
import pytest
from picture_streams import started

from engines.events import Compiled, Event, Mark, Matrix
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
        "place": None,
        "text_so_far": None,
        "goes_on": None,
        "tokens_only_here": None,
        "some_of_them": None,
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


def differing(
    place: int, before: str, cells: dict[str, tuple[float, float]], schema: str = "hard/a", token: str = "x"
) -> Matrix:
    """What llguidance and xgrammar alone allow at a place, by cause: two counts, the second with `token`."""
    return Matrix(
        name=f"mask differences {schema} {place}",
        rows=("only llguidance", "only xgrammar"),
        columns=tuple(f"{cause}: the reason" for cause in cells),
        values=tuple(tuple(counts[row] for counts in cells.values()) for row in (0, 1)),
        row_name=before,
        column_name="12" if before else "{",
        value_name="tokens",
        marks=tuple(
            Mark(row=1, column=column, name=token) for column, (_, other) in enumerate(cells.values()) if other
        ),
    )


def written(drawing: dict[str, Any]) -> list[str]:
    """The lines of text, from the top."""
    traces = [trace for trace in drawing["data"] if trace.get("mode") == "text"]
    lines = {y: text for trace in traces for y, text in zip(trace["y"], trace["text"], strict=True)}
    return [lines[row].replace("\u00a0", " ") for row in sorted(lines)]


def test_where_masks_differ_stand_the_text_so_far_the_engines_their_tokens_and_the_reason() -> None:
    events = [
        *stream(),
        differing(0, "", {"special token": (0, 17)}, token="<|im_end|>"),
        differing(3, '{"n":', {"special token": (0, 17), "number": (2, 1)}, token=" "),
    ]
    assert written(drawn(events)) == [
        "  0  ▸ {",
        "     only xgrammar 17 special token: &lt;|im_end|&gt; …",
        "  3  {&#34;n&#34;: ▸ 12",
        "     only llguidance 2 number: …",
        "     only xgrammar 1 number: ␣",
        "     only xgrammar 17 special token: ␣ …",
    ]
    assert sum(name.startswith("xaxis") for name in drawn(events)["layout"]) == 3
    rows = [row for row in arena.table(events) if row["place"] is not None]
    assert [(row["place"], row["engine"], row["verdict"], row["tokens_only_here"]) for row in rows] == [
        (0, "xgrammar", "special token", 17),
        (3, "llguidance", "number", 2),
        (3, "xgrammar", "number", 1),
        (3, "xgrammar", "special token", 17),
    ]
    assert rows[2]["text_so_far"] == '{"n":'
    assert (rows[2]["goes_on"], rows[2]["some_of_them"], rows[2]["message"]) == ("12", "␣", "the reason")
    assert set(rows[0]) == set(arena.table(events)[0])
    assert "Along a text of hard/a the masks differ at 2 places" in arena.narrate(events)


def test_of_many_places_those_are_drawn_that_show_something_new() -> None:
    plain = [differing(place, "abc", {"special token": (0, 17)}) for place in range(30)]
    plain[20] = differing(20, "abc", {"escape": (1, 0), "special token": (0, 17)})
    places = [line.split()[0] for line in written(drawn([*stream(), *plain])) if "▸" in line]
    assert places == ["0", "1", "2", "3", "4", "5", "6", "20"]


def test_the_last_schema_is_drawn_and_what_is_no_comparison_is_left_alone() -> None:
    events = [
        *stream(),
        differing(0, "", {"value": (1, 0)}),
        differing(5, "abc", {"escape": (1, 0)}, schema="hard/b"),
        Matrix(name="coverage", rows=("a",), columns=("b",), values=((1.0,),)),
        Matrix(name="mask differences x", rows=("a",), columns=("b",), values=((1.0,),)),
        Matrix(name="mask differences hard/b 9", rows=("a", "b"), columns=("c: d",), values=((math.nan,),)),
    ]
    assert [line.split()[0] for line in written(drawn(events)) if "▸" in line] == ["5"]
    assert [one.place for one in arena.apart(events)] == [0, 5]


def test_texts_and_tokens_of_differences_are_harmless_and_bounded() -> None:
    evil = "<b>&lt;$x$\n\u202e" * 40
    cells = {f"{evil}{n}": (1.0, 1e9) for n in range(30)}
    events = [*stream(), *(differing(place, evil, cells, token=evil) for place in range(40))]
    drawing = drawn(events)
    json.dumps(drawing, allow_nan=False)
    for string in strings(drawing):
        assert "<b>&lt;" not in string.replace("<b>masks", "")
        assert "\u202e" not in string
        assert "\n" not in string
        assert "$x" not in string
    assert len(written(drawing)) <= arena.MOST_PLACES * (arena.MOST_LINES + 2)
    assert drawing["layout"]["height"] < 2000
    assert all(text for trace in drawing["data"] if trace.get("mode") == "text" for text in trace["text"])


def test_a_logarithmic_axis_with_two_labels_keeps_them_or_its_title_has_no_place() -> None:
    """Both stand at the ends of the axis, where Plotly hides labels, and the title goes below the lowest of none."""
    layout = drawn([verdict("llguidance", "hard/a", "right", 0.002, 0.0001)])["layout"]
    assert len(layout["xaxis2"]["tickvals"]) == 2
    assert layout["xaxis2"]["title"]["text"]
    assert layout["xaxis2"]["ticklabeloverflow"] == "allow"


EXCHANGE = """
<html><body><div id="plot" style="width:700px"></div><script src="{plotly}"></script></body></html>
"""


def test_the_browser_has_nothing_to_complain_about_while_the_picture_grows(chromium: str, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    events = [*stream(), differing(3, '{"n":', {"number": (2, 1)})]
    page_file = tmp_path / "page.html"
    script = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    page_file.write_text(EXCHANGE.format(plotly=script.as_uri()))

    def complaints() -> list[str]:
        said: list[str] = []
        with playwright.sync_playwright() as driver:
            flags = ["--headless", "--no-sandbox", "--disable-gpu"]
            browser = driver.chromium.launch(executable_path=chromium, args=flags)
            page = browser.new_page()
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.goto(page_file.as_uri())
            for now in range(2, len(events) + 1):
                drawing = drawn(events[:now])
                page.evaluate(
                    "([data, layout]) => Plotly.react('plot', data, layout)", [drawing["data"], drawing["layout"]]
                )
            browser.close()
        return said

    # A thread of its own, because the browser tests of the same process may have left an event loop running.
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(complaints).result() == []

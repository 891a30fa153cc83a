"""The suggestions picture: numbers by hand, a real run, hostile text, every prefix, and speed."""

from __future__ import annotations

import html
import json
import re
import time
from typing import Any

import pytest
from picture_streams import HOSTILE, started, token

from engines.events import Choice, Commit, Event, Mask, Placed, Suggestion, Suggestions
from visuals.canvas import MONO
from visuals.palette import ROLES, dark_of
from visuals.picture import pictures
from visuals.suggestions import LETTER, SHIFT, questions

PICTURE = pictures()["suggestions"]


def told(
    position: int, state: Any, trigger: str, *names: tuple[str, float | None, str], count: int | None = None
) -> Suggestions:
    suggestions = tuple(Suggestion(name, p, rest) for name, p, rest in names)
    return Suggestions(
        position=position,
        state=state,
        monitor="members",
        trigger=trigger,
        suggestions=suggestions,
        count=len(suggestions) if count is None else count,
        seconds=0.013,
    )


def masked(position: int, blocked: float = 0.97) -> Mask:
    return Mask(
        position=position,
        engine="monitor",
        allowed=6,
        vocabulary=4096,
        blocked_mass=blocked,
        wanted=(Choice(token("create"), 0.5), Choice(token("get"), 0.2)),
        permitted=(Choice(token("build"), 0.02),),
        cells="",
        end_allowed=False,
    )


def commit(position: int, text: str) -> Commit:
    return Commit(position=position, step=position, tokens=(Placed(token(text), "sampled"),))


ASKED = told(
    0, "asked", "server.", ("build", 0.02, "build"), ("with_ip", 0.004, "with_ip"), ("with_port", 0.004, "with_port")
)


def offered() -> list[Event]:
    """`server.` goes on as `with_ip(`, in three tokens."""
    return [
        started(prompt="x = server."),
        ASKED,
        masked(0),
        commit(0, "with"),
        told(1, "narrowed", "server.with", ("with_ip", 0.6, "_ip"), ("with_port", 0.3, "_port")),
        masked(1, 0.1),
        commit(1, "_ip"),
        told(2, "narrowed", "server.with_ip", ("with_ip", 0.9, "")),
        commit(2, "("),
        told(3, "finished", "server.with_ip", ("with_ip", None, "")),
    ]


def invented() -> list[Event]:
    """The watcher sees `create(`."""
    return [
        started(prompt="x = server."),
        ASKED,
        commit(0, "create"),
        told(1, "narrowed", "server.create"),
        commit(1, "("),
        told(2, "finished", "server.create"),
    ]


def unknown() -> list[Event]:
    return [started(prompt="thing."), told(0, "nothing known", "thing."), commit(0, "go")]


def texts(drawing: Any) -> list[str]:
    return [text for trace in drawing["data"] if trace.get("mode") == "text" for text in trace["text"]]


def lines(drawing: Any) -> list[Any]:
    return [trace for trace in drawing["data"] if trace.get("mode") == "lines"]


def headlines(drawing: Any) -> str:
    return " | ".join(one["text"] for one in drawing["layout"]["annotations"])


def test_the_names_on_offer_stand_with_the_models_probabilities_on_one_scale() -> None:
    drawing = PICTURE.draw(offered()[:3])
    bars = next(trace for trace in drawing["data"] if trace["type"] == "bar")
    assert bars["x"] == pytest.approx([20.0, 4.0, 4.0])
    assert texts(drawing)[texts(drawing).index("build") :][:6] == [
        "build",
        "with_ip",
        "with_port",
        "2.0%",
        "0.4%",
        "0.4%",
    ]
    assert "Behind <b>server.</b> 3 names exist (13 ms)" in headlines(drawing)


def test_the_blocked_mass_of_that_place_and_what_was_wanted_are_named() -> None:
    drawing = PICTURE.draw(offered())
    assert "97% blocked" in texts(drawing)
    assert f"{ROLES['rejected'].mark} create get" in texts(drawing)
    bar = [trace for trace in drawing["data"] if trace["type"] == "bar"][1]
    assert bar["x"] == [pytest.approx(22 * 0.97, abs=0.01)]
    assert bar["marker"]["pattern"]["shape"] == "/"


def test_the_names_left_shrink_token_by_token() -> None:
    found = texts(PICTURE.draw(offered()))
    assert "2: with·_ip with·_port" in found
    assert "1: with_ip·end" in found
    assert found.index("2: with·_ip with·_port") < found.index("1: with_ip·end")
    assert "<b>with_ip</b>" in found, "the name that was written"


def test_a_name_on_offer_has_a_plain_line_under_it_exactly_as_long() -> None:
    drawing = PICTURE.draw(offered())
    (under,) = lines(drawing)
    prompt = "".join(one.text for one in offered()[0].prompt_tokens)  # type: ignore[attr-defined]
    column = len("x = server.")
    assert prompt.strip() == "x = server."
    assert under["x"] == pytest.approx([column * LETTER + SHIFT, (column + 7) * LETTER + SHIFT, None], abs=0.1)
    assert (under["line"]["dash"], under["line"]["color"]) == ("solid", ROLES["accepted"].ink)
    ring = next(trace for trace in drawing["data"] if trace.get("mode") == "markers")
    assert ring["x"] == [pytest.approx((column - 0.5) * LETTER + SHIFT, abs=0.1)]


def test_a_name_that_was_not_on_offer_is_underlined_as_invented() -> None:
    drawing = PICTURE.draw(invented())
    (under,) = lines(drawing)
    assert under["line"]["dash"] != "solid"
    assert under["line"]["color"] == ROLES["rejected"].ink
    assert "0: ✕ create is not offered" in texts(drawing)
    assert "“create”" in PICTURE.narrate(invented())
    assert "nothing is masked" in texts(drawing)


def test_where_nothing_is_known_nothing_is_called_invented() -> None:
    drawing = PICTURE.draw(unknown())
    assert "nothing is known" in headlines(drawing)
    assert lines(drawing)[0]["line"]["color"] == ROLES["undecided"].ink
    assert [question.outcome for question in questions(unknown())] == ["nothing known"]
    assert "It knew nothing." in PICTURE.narrate(unknown())


def test_several_dots_are_all_marked_and_the_latest_is_explained() -> None:
    events = [*offered(), commit(3, ")."), told(4, "asked", "with_ip().", ("build", 0.2, "build")), commit(4, "build")]
    drawing = PICTURE.draw(events)
    ring = next(trace for trace in drawing["data"] if trace.get("mode") == "markers")
    assert len(ring["x"]) == 2
    assert "Behind <b>with_ip().</b> 1 name exists" in headlines(drawing)
    assert [row["outcome"] for row in PICTURE.table(events)] == ["offered", "being named"]


def test_the_table_has_one_row_per_dot() -> None:
    (row,) = PICTURE.table(offered())
    assert row["offered"] == 3
    assert (row["likeliest"], row["likeliest_p"], row["written"], row["outcome"]) == (
        "build",
        0.02,
        "with_ip",
        "offered",
    )
    assert row["blocked_mass"] == 0.97
    assert PICTURE.table(invented())[0]["outcome"] == "invented"


def test_the_narration_says_what_is_offered_and_what_was_blocked() -> None:
    said = PICTURE.narrate(offered())
    assert "asked once" in said
    assert "it offers “build” (2.0%), “with_ip” (0.4%)" in said
    assert "97% of what the model wanted there is blocked, first of all “create”." in said


def test_long_lists_and_long_code_are_cut_and_say_so() -> None:
    names = tuple((f"name_{n}", 0.01, f"name_{n}") for n in range(24))
    events: list[Event] = [started(prompt="a.\n" * 400 + "y" * 300 + "."), told(0, "asked", "y.", *names, count=500)]
    drawing = PICTURE.draw(events)
    assert "and 492 more" in texts(drawing)
    assert drawing["layout"]["height"] < 600
    assert max(len(html.unescape(text)) for text in texts(drawing)) <= 90


def test_hostile_names_and_code_stay_text() -> None:
    for bad in HOSTILE:
        text = bad.text or "x"
        events = [
            started(prompt=f"{text}."),
            told(0, "asked", f"{text}.", (text, 0.5, text), (text * 50, float("nan"), text * 50)),
            masked(0),
            Commit(position=0, step=0, tokens=(Placed(bad, "sampled"),)),
            told(1, "narrowed", f"{text}.{text}", (text, 7.0, text), count=-3),
            told(2, "finished", f"{text}.{text}"),
        ]
        for stop in range(len(events) + 1):
            drawing = PICTURE.draw(events[:stop])
            written = json.dumps(drawing, ensure_ascii=False, allow_nan=False)
            for word in ("<i>", "<script", "<a ", "\u202e", "\\u0000", "\\n", 'javascript:alert(1)">'):
                assert word not in written
            for colour in re.findall(r"#[0-9a-f]{6}\b", written):
                assert colour in dark_of
            PICTURE.table(events[:stop])
            assert "\n" not in PICTURE.narrate(events[:stop])


def test_the_letters_are_of_a_type_with_equal_widths() -> None:
    drawing = PICTURE.draw(offered())
    code = next(
        trace for trace in drawing["data"] if trace.get("mode") == "text" and "xaxis" in trace and trace["xaxis"] == "x"
    )
    assert code["textfont"]["family"] == MONO
    axis = drawing["layout"]["xaxis"]
    assert (axis["scaleanchor"], axis["scaleratio"], axis["constrain"]) == ("y", 1, "domain")
    high = drawing["layout"]["yaxis"]["range"][0]
    domain = drawing["layout"]["yaxis"]["domain"]
    assert (domain[1] - domain[0]) * (drawing["layout"]["height"] - 4) == pytest.approx(high, rel=0.02)


def test_long_runs_are_drawn_ten_times_a_second() -> None:
    events: list[Event] = [started(prompt="x = server.")]
    for position in range(0, 500, 2):
        events += [told(position, "asked", "b.", ("build", 0.1, "build")), masked(position), commit(position, "build")]
        events += [told(position + 1, "finished", "b.build", ("build", None, "")), commit(position + 1, "().\n")]
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        size = len(json.dumps(PICTURE.draw(events)))
        PICTURE.narrate(events)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.15
    assert size < 120_000


def test_a_real_run_is_drawn_at_every_prefix(smollm: Any) -> None:
    import engines

    prompt = (
        "from network import ServerBuilder\n\n\ndef start(ip):\n    builder = ServerBuilder()\n    server = builder."
    )
    events = list(engines.run(smollm, "monitor-guided", prompt, max_new_tokens=6))
    for stop in range(len(events) + 1):
        drawing = PICTURE.draw(events[:stop])
        assert (drawing is not None) == any(isinstance(event, Suggestions) for event in events[:stop])
    assert {"build", "with_ip", "with_port"} == {one.name for one in questions(events)[0].asked.suggestions}
    assert lines(drawing)[0]["line"]["dash"] == "solid"

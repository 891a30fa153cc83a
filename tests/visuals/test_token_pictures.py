"""Token stream, confidence and filters: the right tokens, probabilities and marks."""

from __future__ import annotations

from typing import Any

import pytest
from picture_streams import HOSTILE, beams, best_of_n, greedy, hostile, lookup, photosynthesis, sampling, started, token

from engines.events import Candidates, Choice, Commit, Event, Placed, Stage
from visuals import confidence, filters, token_stream
from visuals.palette import LIGHT, SURE


def draw_tokens(events: list[Event], **options: int) -> dict[str, Any]:
    drawing = token_stream.draw(events, **options)
    assert drawing is not None
    return drawing


def trace(drawing: Any, kind: str, **wanted: Any) -> dict[str, Any]:
    found = [t for t in drawing["data"] if t["type"] == kind and all(t.get(k) == v for k, v in wanted.items())]
    assert len(found) == 1
    return found[0]


def test_stream_gives_every_token_its_reason() -> None:
    drawing = draw_tokens(photosynthesis())
    tokens = drawing["tokens"]
    assert [item["text"] for item in tokens] == ["glucose", ".", " This", " process", " is", " by"]
    assert [item["role"] for item in tokens] == ["target", *["accepted"] * 4, "bonus"]
    assert [item["mark"] for item in tokens] == ["", *["✓"] * 4, "+"]
    assert [item["step"] for item in tokens] == [0, 1, 1, 1, 1, 1]
    assert [item["position"] for item in tokens] == list(range(6))
    assert [entry["role"] for entry in drawing["legend"]] == ["target", "accepted", "bonus"]
    assert drawing["count"] == 6
    assert drawing["pending"] == []


def test_stream_tokens_never_change_once_committed() -> None:
    for events in (greedy(8), photosynthesis(), sampling(4), best_of_n(), lookup()):
        final = draw_tokens(events)["tokens"]
        for stop in range(len(events)):
            drawing = token_stream.draw(events[:stop])
            known = drawing["tokens"] if drawing else []
            assert known == final[: len(known)]


@pytest.mark.parametrize("start", [0, 1, 3, 5, 6, 99])
def test_stream_from_a_position_on(start: int) -> None:
    events = photosynthesis()
    whole, rest = draw_tokens(events), draw_tokens(events, start=start)
    assert rest["tokens"] == whole["tokens"][start:]
    assert {**rest, "tokens": [], "start": 0} == {**whole, "tokens": []}


def test_alternatives_say_what_the_filters_left_of_them() -> None:
    last = draw_tokens(sampling(1))["tokens"][0]["alternatives"]
    assert [entry["raw"] for entry in last] == sorted((entry["raw"] for entry in last), reverse=True)
    assert sum(entry["final"] for entry in last[:3]) == pytest.approx(1)
    assert [entry["final"] for entry in last[3:]] == [0.0] * 7


def test_alternatives_without_filters_have_no_final_probability() -> None:
    assert all(entry["final"] is None for entry in draw_tokens(greedy(1))["tokens"][0]["alternatives"])


def test_alternatives_are_those_of_the_chosen_sample() -> None:
    drawing = draw_tokens(best_of_n())
    assert {item["entropy"] for item in drawing["tokens"]} == {3.0}


def test_given_tokens_have_a_role_of_their_own() -> None:
    events = [started(), Commit(position=0, step=0, tokens=(Placed(token("x"), "given"),))]
    assert [entry["role"] for entry in draw_tokens(events)["legend"]] == ["given"]


def test_leading_hypothesis_is_pending_until_something_is_committed() -> None:
    drawing = draw_tokens(beams(length=4, finish=False))
    assert drawing["tokens"] == []
    assert len(drawing["pending"]) == 4
    assert {item["role"] for item in drawing["pending"]} == {"undecided"}
    assert [entry["role"] for entry in drawing["legend"]] == ["undecided"]
    done = draw_tokens(beams(length=4))
    assert done["pending"] == []
    assert len(done["tokens"]) == 4


def test_stream_texts_are_raw() -> None:
    assert [item["text"] for item in draw_tokens(hostile())["tokens"]] == [bad.text for bad in HOSTILE]


def test_stream_narration() -> None:
    said = token_stream.narrate(photosynthesis())
    assert "6 tokens" in said
    assert "drafted, accepted: 4" in said
    assert "probability of 0.60" in said
    assert "4 tokens long" in token_stream.narrate(beams(length=4, finish=False))


def test_heatmap_holds_the_probabilities() -> None:
    events = greedy(5)
    wanted = [event for event in events if isinstance(event, Candidates)]
    cells = trace(confidence.draw(events), "heatmap")
    assert cells["y"] == [0, 1, 2, 3, 4]
    assert cells["z"] == [[round(choice.p, 4) for choice in item.raw] for item in wanted]
    assert len(cells["x"]) == len(cells["z"][0]) + 1
    assert [color for _, color in cells["colorscale"][::2]] == list(SURE)


def test_dot_marks_the_token_that_was_taken() -> None:
    words = trace(confidence.draw(sampling(3)), "bar")
    dotted = [(y, base) for y, base, text in zip(words["y"], words["base"], words["text"], strict=True) if "●" in text]
    second = confidence.LABEL + confidence.CELL
    assert [y for y, _ in dotted] == [0, 1, 2]
    assert all(second < base < second + confidence.CELL for _, base in dotted)


def test_unusual_choices_stand_out_in_a_long_run() -> None:
    marks = trace(confidence.draw(sampling(100)), "scatter", mode="markers")
    assert marks["y"] == list(range(100 - confidence.WORDED_ROWS))
    assert trace(confidence.draw(greedy(100)), "scatter", mode="markers")["y"] == []


def test_entropy_strip() -> None:
    strip = trace(confidence.draw(sampling(3)), "scatter", mode="lines")
    assert strip["x"] == [1.2, 1.2, 1.2]


def test_long_run_shows_its_latest_rows_and_keeps_all() -> None:
    drawing = confidence.draw(greedy(500))
    assert drawing is not None
    assert drawing["layout"]["yaxis"]["range"] == [499.5, 475.5]
    assert len(trace(drawing, "heatmap")["z"]) == 500
    words = trace(drawing, "bar")
    assert min(words["y"]) == 500 - confidence.WORDED_ROWS
    assert drawing["layout"]["uniformtext"] == {"minsize": 11, "mode": "hide"}


def test_positions_without_candidates_are_gaps() -> None:
    a, b = greedy(1)[3], Candidates(position=2, raw=(Choice(token("x"), 0.9),), entropy=0.1)
    assert isinstance(a, Candidates)
    cells = trace(confidence.draw([a, b]), "heatmap")
    assert cells["z"][1] == [None] * 10
    assert cells["z"][2] == [0.9] + [None] * 9


def test_confidence_narration() -> None:
    raw = (Choice(token(" a"), 0.5), Choice(token(" b"), 0.4))
    events = [
        Candidates(position=0, raw=(Choice(token(" x"), 0.9),), entropy=0.2),
        Candidates(position=1, raw=raw, entropy=1.4),
        Commit(position=0, step=0, tokens=(Placed(token(" x"), "sampled"), Placed(token(" b"), "sampled"))),
    ]
    said = confidence.narrate(events)
    assert "At 1 of 2 positions" in said
    assert "position 1: “␣a” (0.50) or “␣b” (0.40); entropy 1.40" in said
    assert "At 1 position another token" in said
    assert [row["taken"] for row in confidence.table(events)] == [True, False, True]


def filtered() -> list[Event]:
    """Four tokens; top-k keeps three, top-p two; the second is taken."""
    a, b, c, d = (token(word) for word in (" a", " b", " c", " d"))
    raw = (Choice(a, 0.4), Choice(b, 0.3), Choice(c, 0.2), Choice(d, 0.1))
    three = (Choice(a, 4 / 9), Choice(b, 3 / 9), Choice(c, 2 / 9))
    two = (Choice(a, 4 / 7), Choice(b, 3 / 7))
    stages = (
        Stage("top-k", kept=3, removed_mass=0.1, removed=(Choice(d, 0.1),), top=three),
        Stage("top-p", kept=2, removed_mass=2 / 9, removed=(), top=two),
    )
    return [
        Candidates(position=0, raw=raw, entropy=1.0, stages=stages),
        Candidates(position=1, raw=raw[:2], entropy=1.0, stages=stages[:1]),
        Commit(position=0, step=0, tokens=(Placed(b, "sampled", raw=0.3, final=3 / 7, rank=1),)),
    ]


def test_filters_show_each_stage() -> None:
    drawing = filters.draw(filtered(), position=0)
    assert drawing is not None
    bars = trace(drawing, "bar")
    # raw: 4 bars, top-k: 3 and a cut one, top-p: 2 and a cut one (which the event did not name)
    assert len(bars["x"]) == 4 + 4 + 3
    assert bars["marker"]["pattern"]["shape"].count("/") == 2
    assert max(bars["x"]) == filters.COLUMN
    words = trace(drawing, "scatter")["text"]
    assert words == ["0.40", "0.30", "0.20", "0.10", "0.44", "0.33", "0.22", "✕ 0.10", "0.57", "0.43", "✕ 0.22", "✕"]
    heads = [note["text"] for note in drawing["layout"]["annotations"]]
    assert heads == [
        "<b>raw</b><br>the model's own",
        "<b>top-k</b><br>3 left<br>−10.0% cut",
        "<b>top-p</b><br>2 left<br>−22.2% cut",
    ]
    names = drawing["layout"]["yaxis"]["ticktext"]
    assert names == ["␣a  ", "<b>␣b</b> ●", "<s>␣c</s> ✕", "<s>␣d</s> ✕"]


def test_impossible_tokens_in_a_short_list_are_not_shown() -> None:
    a, b, c, d = (token(word) for word in (" a", " b", " c", " d"))
    raw = (Choice(a, 0.6), Choice(b, 0.3), Choice(c, 0.05))
    stage = Stage("top-k", kept=1, removed_mass=0.4, removed=(Choice(b, 0.3),), top=(Choice(a, 1.0), Choice(d, 0.0)))
    drawing = filters.draw([Candidates(position=0, raw=raw, entropy=1.0, stages=(stage,))])
    assert drawing is not None
    assert drawing["layout"]["yaxis"]["ticktext"] == ["␣a  ", "<s>␣b</s> ✕", "<s>␣c</s> ✕"]


def test_filters_show_the_latest_position_unless_told() -> None:
    latest = filters.draw(filtered())
    assert latest is not None
    assert len(latest["layout"]["annotations"]) == 2
    assert filters.draw(filtered(), position=7) is None


def test_removed_bars_have_their_own_look() -> None:
    marker = trace(filters.draw(filtered(), position=0), "bar")["marker"]
    for color, shape in zip(marker["color"], marker["pattern"]["shape"], strict=True):
        assert (color == LIGHT["rejected-bg"]) == (shape == "/")


def test_filters_narration() -> None:
    said = filters.narrate(filtered(), position=0)
    assert "top-k removed 10.0% of the probability and left 3 tokens" in said
    assert "“␣b” was taken; its probability was 0.30 raw and 0.43 after filters" in said
    rows = filters.table(filtered(), position=0)
    assert [row["removed"] for row in rows].count(True) == 1
    assert len(rows) == 4 + 4 + 2

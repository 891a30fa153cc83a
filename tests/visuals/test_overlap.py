"""Draft against model: the bars add up, and they are the numbers of the test."""

from __future__ import annotations

import pytest
from picture_streams import STREAMS

from engines.events import Event, Verdict
from visuals import overlap

CHAIN = STREAMS["chain"]()


def prefixes() -> list[list[Event]]:
    """The real run up to each of its verdicts."""
    return [CHAIN[: place + 1] for place, event in enumerate(CHAIN) if isinstance(event, Verdict)]


def test_nothing_is_shown_of_guesses_that_were_not_drawn() -> None:
    for name in ("recycling", "lookup", "greedy"):
        events = STREAMS[name]()
        assert not overlap.relevant(events)
        assert overlap.draw(events) is None
        assert overlap.table(events) == []


def test_overlap_refused_and_residual_make_up_both_distributions() -> None:
    for events in prefixes():
        for row in overlap.table(events):
            assert row["overlap"] + row["refused"] == pytest.approx(row["q"])
            assert row["overlap"] + row["residual"] == pytest.approx(row["p"])


def test_on_a_small_vocabulary_the_excesses_are_equally_large_and_the_overlap_is_the_rest() -> None:
    """The twin has ten tokens and the picture shows eight, so a little may be out of sight."""
    for events in prefixes():
        rows, found = overlap.table(events), overlap.chosen(events, None)
        assert found is not None
        assert sum(row["refused"] for row in rows) == pytest.approx(sum(row["residual"] for row in rows), abs=0.05)
        assert found[1].overlap == pytest.approx(1 - sum(row["refused"] for row in rows), abs=0.05)


def test_the_line_falls_within_the_overlap_if_and_only_if_the_guess_was_accepted() -> None:
    seen = set()
    for events in prefixes():
        assert isinstance(events[-1], Verdict)
        for node in overlap.drawn(overlap.latest(events)):  # type: ignore[arg-type]
            figure = overlap.draw(events, node)
            judged = next(one for one in events[-1].nodes if one.id == node)
            assert figure is not None
            (line,) = [trace for trace in figure["data"] if trace["type"] == "scatter"]
            inside = line["x"][0] < next(row["overlap"] for row in overlap.table(events, node) if row["guess"])
            assert inside == (judged.outcome == "accepted")
            seen.add(judged.outcome)
    assert seen == {"accepted", "rejected"}


def test_the_words_name_the_guess_its_numbers_and_what_the_draft_underrates() -> None:
    words = [overlap.narrate(events) for events in prefixes()]
    assert all("Draft and model agree on" in text for text in words)
    assert any("underrates" in text for text in words)
    assert any("it was rejected" in text for text in words)


def test_another_guess_can_be_picked_and_a_wrong_one_shows_nothing() -> None:
    events = prefixes()[0]
    figure = overlap.draw(events)
    assert figure is not None
    assert figure["picks"]["nodes"] == list(overlap.drawn(overlap.latest(events)))  # type: ignore[arg-type]
    assert overlap.draw(events, 999) is None

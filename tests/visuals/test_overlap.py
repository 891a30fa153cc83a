"""Draft against model: the bars add up, and they are the numbers of the test."""

from __future__ import annotations

import pytest
from picture_streams import STREAMS, token

from engines.events import Draft, DraftNode, Event, Judged, Verdict, Weighed
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


def unlikely() -> list[Event]:
    """A guess that is not among the most probable tokens of either distribution."""
    likely = tuple(Weighed(token(word), p, q) for word, p, q in (("a", 0.7, 0.2), ("b", 0.3, 0.7999)))
    judged = Judged(1, "rejected", 0.00001, accept_probability=0.1, u=0.5, q=0.0001, overlap=0.5, weighed=likely)
    nodes = (DraftNode(0, -1, token("x"), None, ""), DraftNode(1, 0, token("odd"), 0.0001, ""))
    return [
        Draft(position=0, nodes=nodes),
        Verdict(position=0, rule="r", path=(), nodes=(judged,), extra=token("a"), extra_origin="correction"),
    ]


def test_the_guess_has_a_row_however_improbable_it_is() -> None:
    figure = overlap.draw(unlikely())
    assert figure is not None
    assert figure["layout"]["yaxis"]["ticktext"] == ["b", "a", "▸ odd"]
    (row,) = [row for row in overlap.table(unlikely()) if row["guess"]]
    assert (row["q"], row["p"]) == pytest.approx((0.0001, 0.00001))
    assert any(trace["type"] == "scatter" for trace in figure["data"]), "and so has its coin"


def test_a_small_probability_is_not_written_as_none() -> None:
    assert "“odd”, with q < 0.001 and p < 0.001;" in overlap.narrate(unlikely())
    figure = overlap.draw(unlikely())
    assert figure is not None
    assert figure["data"][0]["customdata"][-1] == "odd: p &lt; 0.001, q &lt; 0.001"


def test_the_legend_names_the_coin() -> None:
    figure = overlap.draw(prefixes()[0])
    assert figure is not None
    (coin,) = [trace for trace in figure["data"] if trace["type"] == "scatter"]
    assert coin["name"] == "coin, at u · q"
    assert coin.get("showlegend", True)


def test_another_guess_can_be_picked_and_a_wrong_one_shows_nothing() -> None:
    events = prefixes()[0]
    figure = overlap.draw(events)
    assert figure is not None
    assert figure["picks"]["nodes"] == list(overlap.drawn(overlap.latest(events)))  # type: ignore[arg-type]
    assert overlap.draw(events, 999) is None

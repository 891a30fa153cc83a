"""The search tree: one worked search with its numbers, then odd streams and real runs."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from picture_streams import HOSTILE, STREAMS, started, token

from engines.events import Commit, Draft, DraftNode, Event, Judged, Placed, Score, Token, Verdict
from engines.models.twin import twin
from engines.runner import run
from visuals import search_tree
from visuals.palette import LIGHT, ROLES, dark_of
from visuals.picture import pictures

THE, CAT, SAT, RAN, DOG = (token(word) for word in (" the", " cat", " sat", " ran", " dog"))


def place(
    node: int, parent: int, spelled: Token, visits: float, prior: float, chosen: bool = True, depth: int = 0
) -> Score:
    parts = {"node": node, "parent": parent, "visits": visits, "prior": prior, "mean reward": 2.5}
    return Score(name="puct", value=9.0 - node, parts=parts, chosen=chosen, position=3 + depth, token=spelled)


def stream() -> list[Event]:
    """After “the” 100 walks: 64 to cat, of them 36 to sat and 16 to ran, 36 to dog, which was not guessed."""
    nodes = (
        DraftNode(0, -1, THE, None, "committed"),
        DraftNode(1, 0, CAT, None, "trigram at 64 visits"),
        DraftNode(2, 1, SAT, None, "trigram at 36 visits"),
        DraftNode(3, 1, RAN, None, "trigram at 16 visits"),
    )
    judged = (Judged(1, "accepted", 0.9), Judged(2, "rejected", 0.2), Judged(3, "untested"))
    return [
        started("aded", "speculative", "see the"),
        place(1, 0, CAT, 64, 0.7),
        place(2, 0, DOG, 36, 0.3, chosen=False),
        place(3, 1, SAT, 36, 0.75, depth=1),
        place(4, 1, RAN, 16, 0.25, depth=1),
        Draft(position=3, nodes=nodes),
        Verdict(position=3, rule="greedy", path=(1,), nodes=judged, extra=DOG, extra_origin="correction"),
        Commit(position=3, step=3, tokens=(Placed(CAT, "drafted"), Placed(DOG, "correction"))),
    ]


def drawn(events: list[Event]) -> dict[str, Any]:
    drawing = search_tree.draw(events)
    assert drawing is not None
    return drawing


def circles(drawing: dict[str, Any]) -> dict[str, Any]:
    marker: dict[str, Any] = next(trace for trace in drawing["data"] if trace["mode"] == "markers")["marker"]
    return marker


def texts(drawing: dict[str, Any]) -> list[list[str]]:
    return [trace["text"] for trace in drawing["data"] if trace["mode"] == "text"]


def test_a_circles_area_is_its_share_of_the_visits() -> None:
    root, cat, dog, sat, ran = circles(drawn(stream()))["size"]
    assert cat / root == pytest.approx(math.sqrt(0.64), abs=0.01)
    assert dog == sat == pytest.approx(root * math.sqrt(0.36), abs=0.1)
    assert ran == pytest.approx(root * 0.4, abs=0.1)


def test_lines_carry_the_priors_and_circles_their_token_mark_and_visits() -> None:
    priors, words = texts(drawn(stream()))
    assert priors == [".70", ".30", ".75", ".25"]
    assert words == ["␣the", "␣cat ✓ 64", "␣dog 36", "␣sat ✕ 36", "␣ran · 16"]


def test_colours_are_the_verdicts_and_what_was_not_guessed_is_hollow() -> None:
    fills = circles(drawn(stream()))["color"]
    roles = ("target", "accepted", "", "rejected", "untested")
    assert fills == [ROLES[role].bg if role else LIGHT["panel"] for role in roles]
    assert [trace["line"]["dash"] for trace in drawn(stream())["data"] if trace["mode"] == "lines"] == ["solid", "dot"]


def test_before_the_verdict_guesses_are_undecided() -> None:
    for stop in (5, 6):
        assert texts(drawn(stream()[:stop]))[1] == ["␣the", "␣cat ? 64", "␣dog 36", "␣sat ? 36", "␣ran ? 16"]


def test_columns_are_tokens_ahead_and_siblings_stand_below_each_other() -> None:
    marks = next(trace for trace in drawn(stream())["data"] if trace["mode"] == "markers")
    (root, *_), (_, cat, dog, sat, ran) = marks["x"], marks["x"]
    assert root < cat == dog < sat == ran
    _, cat_y, dog_y, sat_y, ran_y = marks["y"]
    assert sat_y < cat_y < ran_y < dog_y


def test_the_latest_search_is_shown_until_there_is_another() -> None:
    plain = Commit(position=5, step=4, tokens=(Placed(SAT, "sampled"),))
    assert search_tree.draw([*stream(), plain]) == search_tree.draw(stream())
    after = [*stream(), plain, place(1, 0, RAN, 150, 1.0)]
    assert texts(drawn(after))[1] == ["␣sat", "␣ran ? 150"]
    assert texts(drawn([*after, *stream()[5:]]))[1][0] == "␣the", "the draft names the root"


def test_a_search_without_a_draft_takes_no_later_ones_verdict() -> None:
    commit = Commit(position=3, step=3, tokens=(Placed(DOG, "sampled"),))
    events = [*stream()[:5], commit, *stream()[5:]]
    assert texts(drawn(events))[1][1] == "␣cat 64", "a plain pass followed: nothing was guessed"


def test_what_was_chosen_but_is_not_in_the_draft_was_not_guessed() -> None:
    """Near the token limit a draft holds fewer guesses than the search chose."""
    *search, draft, verdict, commit = stream()
    assert isinstance(draft, Draft)
    shorter = Draft(position=3, nodes=draft.nodes[:2])
    assert texts(drawn([*search, shorter]))[1] == ["␣the", "␣cat ? 64", "␣dog 36", "␣sat 36", "␣ran 16"]
    assert texts(drawn([*search, shorter, verdict, commit]))[1][1:3] == ["␣cat ✓ 64", "␣dog 36"]
    assert "1 place became a guess." in search_tree.narrate([*search, shorter])
    assert [row["drafted"] for row in search_tree.table([*search, shorter])] == [True, False, False, False]


def test_narration() -> None:
    assert search_tree.narrate(stream()) == (
        "The latest search walked 100 times; 4 places of it, up to 2 tokens ahead, are shown. It went to “␣cat” 64 "
        "times, next to “␣dog” 36 times. 3 places became guesses. The model accepted “␣cat”."
    )
    one = search_tree.narrate([place(1, 0, CAT, 1, 1.0)])
    assert one == (
        "The latest search walked 1 time; 1 place of it, up to 1 token ahead, is shown. It went to “␣cat” 1 time. "
        "1 place became a guess."
    )


def test_table() -> None:
    rows = search_tree.table(stream())
    assert [row["visits"] for row in rows] == [64, 36, 36, 16]
    assert [row["outcome"] for row in rows] == ["accepted", None, "rejected", "untested"]
    assert [row["parent"] for row in rows] == [0, 0, 1, 1]
    assert rows[0]["prior"] == 0.7
    assert rows[0]["puct"] == 8.0
    assert rows[0]["position"] == 3


def test_any_prefix_of_any_stream_can_be_drawn() -> None:
    for events in [stream(), *(make() for make in STREAMS.values())]:
        for stop in range(len(events) + 1):
            drawing = search_tree.draw(events[:stop])
            assert (drawing is not None) == search_tree.relevant(events[:stop])
            assert len(search_tree.table(events[:stop])) >= (drawing is not None)
            assert search_tree.narrate(events[:stop]).endswith(".")


def test_odd_numbers_and_hostile_tokens_do_no_harm() -> None:
    odd: list[Event] = [
        place(1, 0, HOSTILE[0], float("inf"), 0.5),
        place(1, 0, HOSTILE[0], 5, float("nan")),
        place(1, 0, HOSTILE[1], 5, 0.5),
        place(2, 9, HOSTILE[2], 5, 0.5),
        place(3, 3, HOSTILE[3], 5, 0.5),
        place(4, 1, HOSTILE[4], -5, 0.5),
        *(place(10 + index, 1, bad, 1e300, 7.0) for index, bad in enumerate(HOSTILE)),
        *(place(100 + index, 99 + index, bad, 3, 0.5) for index, bad in enumerate(HOSTILE)),
    ]
    drawing = drawn(odd)
    text = json.dumps(drawing, allow_nan=False, ensure_ascii=False)
    assert not any(bad in text for bad in ("<script", "<a ", "\u202e", "<i>"))
    assert len(search_tree.table(odd)) == 1 + len(HOSTILE)
    assert search_tree.draw([place(2, 9, CAT, 5, 0.5)]) is None
    chain = [place(1 + index, index, CAT, 5, 0.5) for index in range(60)]
    assert drawn([*chain])["min_width"] <= 2000
    assert len(search_tree.table([*chain])) == 40


def test_every_colour_has_a_dark_counterpart_and_every_letter_is_readable() -> None:
    drawing = drawn(stream())
    used = {*circles(drawing)["color"], *circles(drawing)["line"]["color"]}
    for trace in drawing["data"]:
        if trace["mode"] == "text":
            colour = trace["textfont"]["color"]
            used |= {colour} if isinstance(colour, str) else set(colour)
            assert trace["textfont"]["size"] >= 11
    assert used <= dark_of.keys()


def test_a_large_c1_shows_circles_in_proportion_to_the_priors() -> None:
    def excess(c1: float) -> float:
        """How much more of the visits the likeliest first token got than its prior."""
        params = {"choices": 16, "c1": c1}
        events = list(run(twin(), "aded", "abcabdabeabcdecabcccaab", params=params, raw=True, max_new_tokens=1))
        found = search_tree.latest(events)
        assert found is not None
        assert len(found.next) == 3
        best = max(found.next, key=lambda place: place.prior)
        return best.visits / found.visits - best.prior

    assert abs(excess(100)) < 0.05
    assert abs(excess(0)) > 0.15


def test_a_long_run_is_drawn_at_once() -> None:
    events = [*(event for _ in range(200) for event in stream()[1:])]
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        search_tree.draw(events)
        search_tree.narrate(events)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.15


def test_the_picture_is_registered() -> None:
    assert pictures()["search-tree"].draw is search_tree.draw

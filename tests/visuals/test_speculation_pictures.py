"""Draft tree, acceptance trace, matches: what was guessed, and what came of it."""

from __future__ import annotations

import random
from typing import Any

import networkx as nx
import pytest
from picture_streams import greedy, lookup, photosynthesis, recycling, started, token

from engines.events import Commit, Draft, DraftNode, Event, Judged, Match, Placed, Verdict
from visuals import acceptance, draft_tree, matches
from visuals.acceptance import rates, running_mean, source_group
from visuals.palette import ROLES
from visuals.reading import steps


def texts(drawing: Any, role: str) -> list[str]:
    """All texts written in the ink of a role."""
    ink = ROLES[role].ink
    return [
        text
        for trace in drawing["data"]
        if trace.get("mode") == "text" and trace["textfont"]["color"] == ink
        for text in trace["text"]
    ]


def boxes(drawing: Any, role: str) -> int:
    """How many boxes have the tint of a role."""
    return sum(t["x"].count(None) for t in drawing["data"] if t.get("fillcolor") == ROLES[role].bg)


def test_tree_looks_like_the_verdict() -> None:
    drawing = draft_tree.draw(photosynthesis())
    assert drawing is not None
    assert {role: boxes(drawing, role) for role in ("target", "accepted", "rejected", "untested", "bonus")} == {
        "target": 1,
        "accepted": 4,
        "rejected": 4,
        "untested": 3,
        "bonus": 1,
    }
    assert texts(drawing, "accepted") == [".", "␣This", "␣proce…", "␣is", "✓ .62", "✓ .55", "✓ .71", "✓ .80"]
    assert texts(drawing, "rejected")[4:] == ["✕ .21", "✕ .20", "✕ .12", "✕ .30"]
    assert texts(drawing, "untested") == ["␣or", "⏎", "␣oxygen", "· .05", "· .10", "· .50"]
    assert texts(drawing, "bonus") == ["␣by", "+ .77"]
    assert drawing["layout"]["annotations"][0]["text"] == "position 1 · 4 of 11 guesses accepted · greedy match"


def test_only_rejected_tokens_are_struck_through() -> None:
    drawing = draft_tree.draw(photosynthesis())
    assert drawing is not None
    struck = [t["textfont"]["color"] for t in drawing["data"] if t.get("textfont", {}).get("lineposition") == "through"]
    assert struck == [ROLES["rejected"].ink]


def test_hover_tells_the_whole_story_of_a_guess() -> None:
    drawing = draft_tree.draw(photosynthesis())
    assert drawing is not None
    hover = drawing["data"][-1]["customdata"]
    assert len(hover) == 13
    assert (
        "␣and<br>rejected<br>target p 0.210<br>draft q 0.250<br>accept probability 0.210, met u = 0.400<br>"
        "recycled, rank 2" in hover
    )


def test_tree_without_a_verdict_is_undecided() -> None:
    drawing = draft_tree.draw(photosynthesis()[:4])
    assert drawing is not None
    assert boxes(drawing, "undecided") == 11
    assert "not judged yet" in drawing["layout"]["annotations"][0]["text"]
    assert "? .60" in texts(drawing, "undecided")


@pytest.mark.parametrize("draw", [draft_tree.draw, matches.draw])
def test_no_empty_text_is_drawn(draw: Any) -> None:
    """Plotly would lose a word of another trace when traces are exchanged in the page."""
    for events in (photosynthesis(), recycling(), lookup()):
        for stop in range(len(events) + 1):
            words = [trace for trace in (draw(events[:stop]) or {"data": []})["data"] if trace["mode"] == "text"]
            assert all(text for trace in words for text in trace["text"])


def test_one_guess_is_no_guesses() -> None:
    alone = Draft(position=3, nodes=(DraftNode(0, -1, token("x"), None, ""), DraftNode(1, 0, token("y"), None, "")))
    drawing = draft_tree.draw([alone])
    assert drawing is not None
    assert drawing["layout"]["annotations"][0]["text"] == "position 3 · 1 guess, not judged yet"
    assert "1 guess, 1 token ahead of position 3." in draft_tree.narrate([alone])


def test_a_box_is_as_large_in_any_panel() -> None:
    layout = draft_tree.draw(photosynthesis())["layout"]  # type: ignore[index]
    assert (layout["xaxis"]["scaleanchor"], layout["xaxis"]["constrain"]) == ("y", "domain")
    low, high = layout["yaxis"]["range"]
    assert low - high == layout["height"] - layout["margin"]["t"] - layout["margin"]["b"], "a unit is a pixel"


def bush(leaves: int, right: int) -> list[Event]:
    """A root with so many guesses, of which number `right` was accepted."""
    nodes = (
        DraftNode(0, -1, token("r"), None, ""),
        *(DraftNode(id, 0, token(f"w{id}"), None, "") for id in range(1, leaves + 1)),
    )
    judged = tuple(Judged(id, "accepted" if id == right else "rejected", 0.1) for id in range(1, leaves + 1))
    return [
        Draft(position=0, nodes=nodes),
        Verdict(position=0, rule="r", path=(right,), nodes=judged, extra=token("x"), extra_origin="bonus"),
    ]


@pytest.mark.parametrize("right", [12, 22, 50, 68, 80])
def test_of_a_tree_too_tall_the_root_and_the_accepted_path_are_in_sight(right: int) -> None:
    drawing = draft_tree.draw(bush(90, right))
    assert drawing is not None
    bottom, top = drawing["layout"]["yaxis"]["range"]
    assert bottom - top == draft_tree.TALLEST
    places = dict(zip(drawing["data"][-1]["ids"], drawing["data"][-1]["y"], strict=True))
    root = drawing["data"][-1]["y"][0]
    assert top < places[str(right)] < bottom
    if abs(places[str(right)] - root) < draft_tree.TALLEST - draft_tree.SLOT:
        assert top < root < bottom
    assert drawing["layout"]["annotations"][0]["text"].endswith(" · drag for more")


def test_the_matches_begin_where_something_was_copied_and_count_one_token_as_one() -> None:
    events = [
        started(prompt=" ".join("abcdefghijklmnopqrstuvwxyz")),
        Match(source=(-3, -1), target=(0, 2), copied=(-1, 0)),
    ]
    drawing = matches.draw(events)
    assert drawing is not None
    assert drawing["layout"]["xaxis"]["range"][0] == -3 - matches.MARGIN - 1
    assert "from −3 to 0 · 1 token offered, not tested" in [a["text"] for a in drawing["layout"]["annotations"]]
    assert "1 token was offered as guesses" in matches.narrate(events)


@pytest.mark.parametrize(("deep", "step"), [(4, 1), (12, 2)])
def test_distances_are_written_level_and_only_as_many_as_fit(deep: int, step: int) -> None:
    nodes = tuple(DraftNode(id, id - 1, token(f"w{id}"), None, "") for id in range(deep + 1))
    judged = tuple(Judged(id, "accepted", 0.9) for id in range(1, deep + 1))
    path = tuple(range(1, deep + 1))
    verdict = Verdict(position=0, rule="r", path=path, nodes=judged, extra=token("x"), extra_origin="bonus")
    commit = Commit(position=0, step=0, tokens=(Placed(token("x"), "drafted"),) * (deep + 1))
    axis = acceptance.draw([Draft(position=0, nodes=nodes), verdict, commit])["layout"]["xaxis2"]  # type: ignore[index]
    assert (axis["dtick"], axis["tickangle"]) == (step, 0)


def test_layout_gives_leaves_rows_and_sets_parents_between() -> None:
    tree = nx.DiGraph([(0, 1), (0, 2), (1, 3), (1, 4)])
    places, rows = draft_tree.layout(tree, 0, first=-1)
    pitch, slot = draft_tree.PITCH, draft_tree.SLOT
    assert rows == 3
    assert places[3] == (2 * pitch, 0.5 * slot)
    assert places[4] == (2 * pitch, 1.5 * slot)
    assert places[1] == (pitch, slot)
    assert places[2] == (pitch, 2.5 * slot)
    assert places[0] == (0, 1.75 * slot)


def test_no_two_boxes_overlap() -> None:
    for events in (photosynthesis(), recycling(), lookup()):
        drawing = draft_tree.draw(events)
        assert drawing is not None
        centres = list(zip(drawing["data"][-1]["x"], drawing["data"][-1]["y"], strict=True))
        for i, (x, y) in enumerate(centres):
            for a, b in centres[:i]:
                assert abs(x - a) >= draft_tree.BOX or abs(y - b) >= draft_tree.HIGH


def test_orphans_and_repeated_ids_do_no_harm() -> None:
    nodes = tuple(
        DraftNode(id, parent, token("x"), None, "") for id, parent in ((0, -1), (1, 0), (1, 0), (2, 9), (3, 3))
    )
    drawing = draft_tree.draw([Draft(position=0, nodes=nodes)])
    assert drawing is not None
    assert boxes(drawing, "undecided") == 1


def test_draft_narration_and_table() -> None:
    said = draft_tree.narrate(photosynthesis())
    assert "11 guesses, up to 4 tokens ahead" in said
    assert "tested 8 of them and accepted 4" in said
    assert "“.” “␣This” “␣process” “␣is”" in said
    assert "bonus" in said
    assert "“␣by”" in said
    rows = draft_tree.table(photosynthesis())
    assert len(rows) == 11
    assert rows[7]["position"] == 3
    assert rows[7]["p"] == 0.71


def test_running_mean() -> None:
    assert running_mean([2, 4, 0, 2]) == [2, 3, 2, 2]
    assert running_mean([]) == []


@pytest.mark.parametrize(
    ("source", "group"),
    [
        ("copied from -31", "copied"),
        ("copied from 7", "copied"),
        ("recycled, rank 2", "recycled, rank 2"),
        ("a small model, ticket -1.23", "a small model"),
        ("a small model, ticket 0.00", "a small model"),
        ("", "unnamed"),
        ("table", "table"),
    ],
)
def test_source_groups(source: str, group: str) -> None:
    assert source_group(source) == group


def test_rates_by_depth_and_source() -> None:
    by_depth, by_source = rates(steps(photosynthesis()))
    assert by_depth == {1: (1, 2), 2: (1, 2), 3: (1, 2), 4: (1, 2)}
    assert by_source == {"recycled, rank 1": (4, 4), "recycled, rank 2": (0, 4)}


def test_trace_stacks_accepted_and_the_extra_token() -> None:
    drawing = acceptance.draw(lookup(5))
    assert drawing is not None
    accepted, extra, _, mean = drawing["data"][:4]
    assert accepted["y"] == [2, 3, 2, 0, 2]
    assert extra["y"] == [1, 1, 1, 1, 1]
    assert mean["y"] == [3, 3.5, 3.3333, 2.75, 2.8]
    assert mean["name"] == "mean 2.80"
    depth = drawing["data"][4]
    assert depth["x"] == [1, 2, 3, 4]
    assert depth["y"] == [4 / 5, 1, 1 / 4, 0]
    assert drawing["data"][5]["customdata"] == ["copied: 9 of 14"]


def test_a_pass_without_a_draft_gains_one_token() -> None:
    plain = Commit(position=20, step=9, tokens=(Placed(token("x"), "sampled"),))
    drawing = acceptance.draw([*lookup(5)[:-1], plain])
    assert drawing is not None
    assert drawing["data"][0]["y"] == [2, 3, 2, 0, 2, 0]
    assert drawing["data"][1]["y"] == [1] * 6


def test_plain_decoding_has_no_acceptance() -> None:
    assert acceptance.draw(greedy(5)) is None
    assert acceptance.table(greedy(5)) == []


def test_a_path_cut_by_the_token_limit_counts_what_became_text() -> None:
    events: list[Event] = photosynthesis()[:-1]
    whole = photosynthesis()[-1]
    assert isinstance(whole, Commit)
    cut = Commit(position=1, step=1, tokens=whole.tokens[:2])
    drawing = acceptance.draw([*events, cut])
    assert drawing is not None
    assert drawing["data"][0]["y"] == [0, 2]
    assert drawing["data"][1]["y"] == [1, 0]


def test_given_tokens_are_nobodys_gain() -> None:
    given = Commit(position=0, step=0, tokens=(Placed(token("x"), "given"),) * 5)
    assert [step.gained for step in steps([started(), given, *lookup(2)[1:]])] == [3, 4]


def test_many_sources_are_summed_up() -> None:
    nodes = (
        DraftNode(0, -1, token("x"), None, ""),
        *(DraftNode(i, 0, token("x"), None, f"kind{i:c}") for i in range(65, 75)),
    )
    judged = tuple(Judged(node.id, "rejected", 0.1) for node in nodes[1:])
    verdict = Verdict(position=0, rule="r", path=(), nodes=judged, extra=token("y"), extra_origin="correction")
    drawing = acceptance.draw([Draft(position=0, nodes=nodes), verdict])
    assert drawing is not None
    assert drawing["data"][5]["customdata"][-1] == "5 others: 0 of 5"


def test_acceptance_narration_and_table() -> None:
    said = acceptance.narrate(lookup(5))
    assert "In 5 passes the model gained 14 tokens, 2.80 per pass (at least 1, at most 4)." in said
    assert "9 of 14 tested guesses were accepted (64%); 20 were drafted." in said
    rows = acceptance.table(lookup(5))
    assert [row["tokens_gained"] for row in rows] == [3, 4, 3, 1, 3]
    assert all(row["accepted"] + row["rejected"] + row["untested"] == row["drafted"] for row in rows)


def test_matches_know_what_was_accepted() -> None:
    assert [use.accepted for use in matches.uses(lookup(5))] == [2, 3, 2, 0, 2]
    assert [row["accepted"] for row in matches.table(lookup(5))] == [2, 3, 2, 0, 2]


def test_match_is_spelled_out_with_its_outcome() -> None:
    drawing = matches.draw(lookup(5))
    assert drawing is not None
    assert boxes(drawing, "copied") == 4
    assert boxes(drawing, "accepted") == 2
    assert boxes(drawing, "rejected") == 1
    assert boxes(drawing, "untested") == 1
    latest = [t for t in drawing["data"] if t.get("mode") == "lines" and t["line"]["width"] == 3]
    assert [t["line"]["color"] for t in latest] == [ROLES["accepted"].ink]


def test_arc_leads_from_source_to_target() -> None:
    events = [started(prompt="a b c d e f g h"), Match(source=(-8, -6), target=(-2, 0), copied=(-6, -3))]
    drawing = matches.draw(events)
    assert drawing is not None
    arc = drawing["data"][0]
    assert arc["x"][0] == pytest.approx(-7)
    assert arc["x"][-2] == pytest.approx(-1)
    assert max(y for y in arc["y"] if y is not None) == pytest.approx(1)


def test_matches_narration() -> None:
    said = matches.narrate(lookup(5))
    assert "found earlier 5 times; 20 tokens were offered as guesses, 9 accepted" in said
    assert "from the prompt" in said


def test_chains_are_compared_with_theory() -> None:
    """Guesses that are each right with the same probability reach what theory expects of them."""
    rng = random.Random(4)
    events: list[Event] = [started("speculative-sampling", "speculative")]
    position, alpha, gamma = 0, 0.7, 3
    for step in range(4000):
        accepted = next((count for count in range(gamma) if rng.random() > alpha), gamma)
        nodes = tuple(DraftNode(id, id - 1, token(" x"), 0.5, "draft") for id in range(gamma + 1))
        outcomes = ["accepted"] * accepted + ["rejected", "untested", "untested"]
        judged = tuple(Judged(id, outcomes[id - 1], 0.5) for id in range(1, gamma + 1))
        events += [
            Draft(position=position, nodes=nodes),
            Verdict(
                position=position,
                rule="with replacement",
                path=tuple(range(1, accepted + 1)),
                nodes=judged,
                extra=token(" y"),
                extra_origin="bonus" if accepted == gamma else "correction",
            ),
            Commit(position=position, step=step, tokens=(Placed(token(" y"), "bonus"),) * (accepted + 1)),
        ]
        position += accepted + 1
    done = acceptance.passes(events)
    theory = acceptance.expected(done)
    assert theory == pytest.approx((1 - alpha**4) / (1 - alpha), abs=0.05)
    assert theory == pytest.approx(sum(step.gained for step in done) / len(done), abs=0.05)
    assert f"Theory expects {theory:.2f} tokens per pass" in acceptance.narrate(events[:12_001])


def test_theory_is_silent_about_trees() -> None:
    assert acceptance.expected(acceptance.passes(recycling())) is None
    assert "Theory" not in acceptance.narrate(recycling())

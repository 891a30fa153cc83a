"""The X-ray of one guess: worked examples with their numbers, then every guess of real runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from picture_streams import STREAMS, started, token

from engines.events import (
    Choice,
    Commit,
    Draft,
    DraftNode,
    Event,
    Judged,
    Placed,
    Verdict,
    from_json,
    to_json,
)
from engines.models.causal import CausalModel
from engines.runner import run
from visuals import rejection_xray as xray
from visuals.draft_tree import draw as draw_tree

THE, SUN, SKY, IS, BLUE = (token(word) for word in (" the", " sun", " sky", " is", " blue"))


def stream(verdict: Verdict, *, q: float | None = None, final: float | None = None) -> list[Event]:
    """A root with two guesses, the first with a child: 1 = sun, 2 = sky, 3 = is (after sun)."""
    nodes = (
        DraftNode(0, -1, THE, None, "committed"),
        DraftNode(1, 0, SUN, q, "recycled, rank 1"),
        DraftNode(2, 0, SKY, q, "recycled, rank 2"),
        DraftNode(3, 1, IS, q, "recycled, rank 1"),
    )
    placed = (Placed(verdict.extra, "correction", raw=0.4, final=final),)
    return [started(), Draft(position=0, nodes=nodes), verdict, Commit(position=0, step=0, tokens=placed)]


def drawn() -> list[Event]:
    """Both guesses at the root are refused; p = sun .3, sky .2, blue .4, the .1."""
    return stream(
        Verdict(
            position=0,
            rule="point",
            path=(),
            nodes=(
                Judged(1, "rejected", 0.3, 0.3, 0.81, Choice(BLUE, 0.4), (Choice(BLUE, 0.571), Choice(SKY, 0.286))),
                Judged(2, "rejected", 0.2, 0.2857, 0.5, Choice(BLUE, 0.4), (Choice(BLUE, 0.8), Choice(THE, 0.2))),
                Judged(3, "untested"),
            ),
            extra=BLUE,
            extra_origin="correction",
            residual=(Choice(BLUE, 0.8), Choice(THE, 0.2)),
        )
    )


def greedy(*, best: bool = True) -> list[Event]:
    """Sun is the first choice, and after it not "is" but "blue"."""
    after = Choice(BLUE, 0.4) if best else None
    return stream(
        Verdict(
            position=0,
            rule="greedy",
            path=(1,),
            nodes=(
                Judged(1, "accepted", 0.6, 1.0, best=Choice(SUN, 0.6) if best else None),
                Judged(2, "rejected", 0.1, 0.0, best=Choice(SUN, 0.6) if best else None),
                Judged(3, "rejected", 0.25, 0.0, best=after),
            ),
            extra=BLUE,
            extra_origin="correction",
        )
    )


def texts(events: Sequence[Event], node: int | None = None) -> str:
    figure = xray.draw(events, node)
    assert figure is not None
    return " | ".join(note["text"] for note in figure["layout"]["annotations"])


def bars(figure: dict[str, Any], axis: str) -> dict[str, float]:
    names = figure["layout"][f"yaxis{axis[1:]}"]["ticktext"]
    (trace,) = [one for one in figure["data"] if one["type"] == "bar" and one["yaxis"] == axis]
    return dict(zip(names, trace["x"], strict=True))


def test_it_shows_the_guess_whose_refusal_led_to_the_correction() -> None:
    figure = xray.draw(drawn())
    assert figure is not None
    assert figure["picks"] == {"node": 2, "nodes": [1, 2]}
    assert bars(figure, "y") == {"draft q": 1.0, "model p": 0.2}
    assert bars(figure, "y3") == {"␣blue": 0.8, "␣the": 0.2}
    assert "u = 0.500 ≥ 0.286" in texts(drawn())
    assert "+ was drawn" in texts(drawn())
    residual = next(one for one in figure["data"] if one.get("yaxis") == "y3")
    assert residual["text"] == ["0.800 +", "0.200"]


def test_the_sentence_says_what_happened() -> None:
    assert xray.narrate(drawn(), 1) == (
        "The draft said “␣sun” with q = 1, as any table or copy does; the model gives it p = 0.300. "
        "The coin showed u = 0.810 ≥ p/q = 0.300, so it was rejected. "
        "The next guess was tested against what is left."
    )
    assert xray.narrate(drawn()) == (
        "The draft said “␣sky” with q = 1, as any table or copy does; the model gives it p = 0.200. "
        "The guesses refused before it are taken out, which makes its share 0.286. "
        "The coin showed u = 0.500 ≥ 0.286, so it was rejected. "
        "The correction “␣blue” was drawn from what is left."
    )


def test_any_judged_guess_can_be_picked() -> None:
    figure = xray.draw(drawn(), 1)
    assert figure is not None
    assert figure["picks"] == {"node": 1, "nodes": [1, 2]}
    assert bars(figure, "y3") == {"␣blue": 0.571, "␣sky": 0.286}
    assert "for the next guess" in texts(drawn(), 1)


def test_a_guess_that_was_never_tested_says_so() -> None:
    assert xray.draw(drawn(), 3) is None
    assert "never tested" in xray.narrate(drawn(), 3)
    assert xray.table(drawn(), 99) == []


def test_greedy_needs_no_coin() -> None:
    figure = xray.draw(greedy())
    assert figure is not None
    assert figure["picks"]["node"] == 3
    assert bars(figure, "y") == {"guess ␣is": 0.25, "first choice ␣blue": 0.4}
    assert "no coin" in texts(greedy())
    assert xray.narrate(greedy()) == (
        "The draft said “␣is”; the model gives it p = 0.250, but its first choice is “␣blue” with p = 0.400,"
        " so the guess was rejected. Greedy decoding takes the first choice: no coin is needed."
    )
    assert "first choice, so it was accepted" in xray.narrate(greedy(), 1)


def test_recordings_from_before_there_was_a_first_choice_can_be_read() -> None:
    lines = [to_json(event).replace(b',"best":null,"residual":[]', b"") for event in greedy(best=False)]
    assert not any(b'"best"' in line for line in lines)
    old = [from_json(line) for line in lines]
    assert "first choice is “␣blue”" in xray.narrate(old)
    assert "first choice is “␣sun” with p = 0.600" in xray.narrate(old, 2)


def test_the_drafts_own_probability_is_shown_when_it_has_one() -> None:
    verdict = drawn()[2]
    assert isinstance(verdict, Verdict)
    nodes = (Judged(1, "accepted", 0.3, 0.6, 0.59, Choice(BLUE, 0.4)), Judged(2, "untested"), Judged(3, "untested"))
    events = stream(msgspec.structs.replace(verdict, rule="ratio", path=(1,), nodes=nodes), q=0.5)
    figure = xray.draw(events)
    assert figure is not None
    assert bars(figure, "y") == {"draft q": 0.5, "model p": 0.3}
    assert "with q = 0.500; the model gives it p = 0.300. The coin showed u = 0.590 < p/q = 0.600" in xray.narrate(
        events
    )
    assert "nothing was replaced" in texts(events)


def test_numbers_that_look_alike_get_more_digits() -> None:
    verdict = drawn()[2]
    assert isinstance(verdict, Verdict)
    nodes = (Judged(1, "rejected", 0.3, 0.3, 0.30004, Choice(BLUE, 0.4), (Choice(BLUE, 1.0),)),)
    events = stream(msgspec.structs.replace(verdict, nodes=nodes))
    assert "u = 0.300040 ≥ p/q = 0.300000" in xray.narrate(events)


def test_a_drawn_token_beyond_the_recorded_ones_is_named() -> None:
    verdict = drawn()[2]
    assert isinstance(verdict, Verdict)
    events = stream(msgspec.structs.replace(verdict, extra=IS))
    assert "drawn: + ␣is" in texts(events)


def test_the_table_holds_every_number() -> None:
    rows = {(row["quantity"], row["text"]): row["value"] for row in xray.table(drawn())}
    assert rows["draft q", " sky"] == 1.0
    assert rows["target p", " sky"] == 0.2
    assert rows["acceptance probability", " sky"] == 0.2857
    assert rows["random number u", " sky"] == 0.5
    assert rows["drawn", " blue"] == 0.8
    assert rows["residual", " the"] == 0.2


def test_the_tree_can_be_clicked_where_a_guess_was_judged() -> None:
    figure = draw_tree(drawn())
    assert figure is not None
    (points,) = [one["ids"] for one in figure["data"] if "ids" in one]
    assert sorted(points) == ["", "", "", "1", "2"]  # root, extra and the untested guess have none
    judged = {node: xray.draw(drawn(), int(node)) for node in points if node}
    assert all(judged.values())


@pytest.mark.parametrize("name", STREAMS)
def test_every_node_of_any_stream_can_be_asked_for(name: str) -> None:
    events = STREAMS[name]()
    for node in (-1, 0, 1, 2, 7, 10**9):
        xray.draw(events, node)
        xray.table(events, node)
        assert xray.narrate(events, node).endswith(".")


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("prompt-lookup", {"guesses": 4, "max_ngram": 1, "fallback": False}),
        ("token-recycling", {"nodes": 12, "memory": "hot"}),
    ],
    ids=["prompt-lookup", "token-recycling"],
)
def test_every_guess_of_a_real_run(smollm: CausalModel, method: str, params: dict[str, Any]) -> None:
    events = list(
        run(
            smollm,
            method,
            "Copy this list: red, green, blue, red, green, blue, red, green.",
            params={"temperature": 0.9, "top_k": 40, **params},
            seed=3,
            max_new_tokens=24,
        )
    )
    seen = {"accepted": 0, "rejected": 0}
    drawn_from = 0
    for place, event in enumerate(events):
        if not isinstance(event, Verdict):
            continue
        prefix = events[: place + 1]
        for judged in event.nodes:
            if judged.outcome == "untested":
                assert xray.draw(prefix, judged.id) is None
                continue
            one = xray.expose(prefix, judged.id)
            assert one is not None
            assert judged.u is not None
            assert judged.accept_probability is not None
            assert (judged.u < judged.accept_probability) == (judged.outcome == "accepted")
            assert judged.best is not None
            assert judged.p is not None
            assert judged.best.p >= judged.p - 1e-6
            assert 0 <= judged.p <= judged.accept_probability + 1e-6 <= 1 + 2e-6
            seen[judged.outcome] += 1
            left = {choice.token.id: choice.p for choice in one.left}
            assert one.node.token.id not in left
            assert (judged.outcome == "rejected") == bool(judged.residual)
            assert sum(left.values()) <= 1 + 1e-5
            if one.next is not None and one.next.id in left:
                drawn_from += 1
            figure = xray.draw(prefix, judged.id)
            assert figure is not None
            assert figure["picks"]["node"] == judged.id
        if event.extra_origin == "correction":
            shown = xray.expose(prefix)
            assert shown is not None
            assert shown.next == event.extra
            assert [one.token for one in shown.left] == [one.token for one in event.residual if one.p > 0]
    assert seen["accepted"] > 0
    assert seen["rejected"] > 0
    assert drawn_from > 0

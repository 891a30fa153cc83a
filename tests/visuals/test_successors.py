"""The table of successors: what it holds, which rows were read and written, and whose rows they are."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

import pytest
from picture_streams import HOSTILE, WORDS, started, token
from test_all_pictures import check, strings

from engines.events import (
    Choice,
    Commit,
    Draft,
    DraftNode,
    Event,
    Judged,
    Placed,
    Store,
    StoredRow,
    Token,
    Verdict,
)
from visuals import successors
from visuals.palette import ROLES, SURE
from visuals.picture import pictures

PICTURE = pictures()["successors"]


def choices(successors: str) -> tuple[Choice, ...]:
    """`range .6, zip .2` as a row."""
    pairs = (pair.rsplit(" ", 1) for pair in successors.split(",") if pair.strip())
    return tuple(Choice(token(word.strip()), float(p)) for word, p in pairs)


def row(key: str, after: str, source: str, before: str = "") -> StoredRow:
    return StoredRow(tuple(token(word) for word in key.split()), choices(before), choices(after), source)


def store(*rows: StoredRow, size: int = 0, changed: int = 0, table: str = "successors") -> Store:
    return Store(table=table, rows=rows, changed=changed or len(rows), size=size or len(rows))


def draft(*nodes: tuple[int, str]) -> Draft:
    """Nodes as (parent, word), the root first."""
    spelled = (DraftNode(id, parent, token(word), None, "") for id, (parent, word) in enumerate(nodes))
    return Draft(position=0, nodes=tuple(spelled))


def verdict(*path: int, extra: str = "x") -> Verdict:
    judged = tuple(Judged(id, "accepted") for id in path)
    return Verdict(position=0, rule="greedy", path=path, nodes=judged, extra=token(extra), extra_origin="bonus")


def commit(*words: str) -> Commit:
    return Commit(position=0, step=0, tokens=tuple(Placed(token(word), "drafted") for word in words))


def recycling() -> list[Event]:
    """Two plain passes, then a draft of three: `range` and `(` are right, `zip` is not."""
    return [
        started(prompt="for i in"),
        store(row("in", "range .6, zip .2", "root"), size=1),
        commit("range"),
        store(row("range", "( .9, of .1", "root"), size=2),
        commit("in"),
        draft((-1, "in"), (0, "range"), (0, "zip"), (1, "(")),
        verdict(1, 3, extra="n"),
        store(
            row("in", "range .7, a .2", "root", "range .6, zip .2"),
            row("range", "( .9, of .1", "accepted", "( .9, of .1"),
            row("(", "n .8", "accepted"),
            row("zip", "( 1", "rejected"),
            size=4,
        ),
        commit("range", "(", "n"),
    ]


def trigrams() -> list[Event]:
    """A table with keys of two tokens and weights that are no probabilities: ADED's."""
    return [
        commit("a", "b", "c"),
        store(
            row("b c", "d 2.4, e 0.6", "text"),
            row("c d", "f 0.3", "text"),
            row("d f", ", ".join(f"w{rank} 0.0{rank}" for rank in range(9, 0, -1)), "corpus"),
            size=9000,
            table="trigrams",
        ),
        draft((-1, "c"), (0, "d"), (1, "f")),
        verdict(1, extra="g"),
        commit("d", "g"),
    ]


def drawn(events: Sequence[Event]) -> dict[str, Any]:
    drawing = successors.draw(events)
    assert drawing is not None
    return drawing


def lines(drawing: dict[str, Any]) -> list[str]:
    """All that is written, row by row from left to right."""
    words: dict[float, list[tuple[float, str]]] = {}
    for trace in drawing["data"]:
        if trace["mode"] == "text":
            for x, y, text in zip(trace["x"], trace["y"], trace["text"], strict=True):
                words.setdefault(y, []).append((x, text))
    written = (sorted(place for place in line if place[1]) for _, line in sorted(words.items()))
    return [
        " | ".join(text for x, text in sorted(line, key=lambda place: (place[0] == successors.GUTTER, place[0])))
        for line in written
    ]


def boxes(drawing: dict[str, Any], fill: str) -> int:
    return sum(t["x"].count(None) for t in drawing["data"] if t.get("fillcolor") == fill)


def outlined(drawing: dict[str, Any], colour: str) -> int:
    return sum(t["x"].count(None) for t in drawing["data"] if t["mode"] == "lines" and t["line"]["color"] == colour)


def heads(drawing: dict[str, Any]) -> list[str]:
    return [annotation["text"] for annotation in drawing["layout"]["annotations"]]


def test_a_row_is_marked_where_it_was_read_and_where_it_was_written() -> None:
    assert lines(drawn(recycling())) == [
        "▸ | ✎ | in | ✓range .70 | <b>a .20</b>",
        "▸ | ✎ | range | ✓ | ✓( .90 | of .10",
        "✎ | ( | ✓ | n .80",
        "✎ | zip | ✕ | ( 1.0",
    ]


def test_before_the_pass_the_guesses_are_outlined_in_the_rows_they_are_read_from() -> None:
    drawing = drawn(recycling()[:6])
    assert lines(drawing) == ["▸ | in | range .60 | zip .20", "▸ | range | ( .90 | of .10"]
    assert outlined(drawing, ROLES["bonus"].ink) == 3
    assert outlined(drawing, ROLES["accepted"].ink) == 0
    judged = drawn(recycling()[:7])
    assert outlined(judged, ROLES["bonus"].ink) == 1
    assert outlined(judged, ROLES["accepted"].ink) == 2


def test_read_rows_are_blue_and_rows_only_written_are_amber() -> None:
    drawing = drawn(recycling())
    assert boxes(drawing, ROLES["bonus"].bg) == 2
    assert boxes(drawing, ROLES["copied"].bg) == 2


def test_keys_have_the_colour_of_their_role() -> None:
    drawing = drawn(recycling())
    assert {role: boxes(drawing, ROLES[role].bg) for role in ("target", "accepted", "rejected")} == {
        "target": 1,
        "accepted": 2,
        "rejected": 1,
    }
    assert boxes(drawn([store(row("a", "b 1", "prompt"))]), ROLES["given"].bg) == 1


def test_the_marks_are_those_of_the_latest_step() -> None:
    nothing_guessed = [*recycling(), store(row("n", "len .5", "root"), size=5)]
    assert lines(drawn(nothing_guessed)) == [
        "✎ | n | len .50",
        "in | range .70 | a .20",
        "range | ✓ | ( .90 | of .10",
        "( | ✓ | n .80",
        "zip | ✕ | ( 1.0",
    ]


def test_the_headline_counts_rows_that_came_from_a_rejected_guess() -> None:
    assert heads(drawn(recycling()))[0] == "rows that came from a rejected guess: <b>1 of 4</b>"
    written_again = store(row("zip", "( 1", "root"), size=4)
    assert heads(drawn([*recycling(), written_again]))[0].endswith("<b>0 of 4</b>")


def test_the_caption_counts_guesses_that_were_right_thanks_to_a_rejected_one() -> None:
    assert "0 of 2 accepted guesses were read from such rows" in heads(drawn(recycling()))
    thanks = [*recycling(), draft((-1, "zip"), (0, "(")), verdict(1), commit("(", "x")]
    assert "1 of 3 accepted guesses were read from such rows" in heads(drawn(thanks))


def test_the_credit_goes_to_the_row_as_it_was_when_it_was_read() -> None:
    """The pass that confirms a guess writes its row again, in another role."""
    step: list[Event] = [
        draft((-1, "zip"), (0, "(")),
        verdict(1),
        store(row("zip", "( 1", "root"), size=4),
        commit("(", "x"),
    ]
    known = successors.warming([*recycling(), *step])
    assert (known.recycled, known.accepted, known.rejected) == (1, 3, 0)


def test_keys_of_two_tokens_reach_back_into_the_text() -> None:
    drawing = drawn(trigrams())
    assert lines(drawing)[:2] == ["▸ | ✎ | b c | ✓d 2.4 | e .60", "▸ | ✎ | c d | f .30"]
    assert heads(drawing)[:2] == ["<b>9000 rows</b> in the table", "trigrams: 9000 rows · 3 written, then 2 read"]


@pytest.mark.parametrize(("prompt", "known"), [("a b c", True), ("a c b", False), ("c", False)])
def test_a_key_may_begin_in_the_prompt(prompt: str, known: bool) -> None:
    key = (token(" b"), token(" c"))
    events = [
        started(prompt=prompt),
        store(StoredRow(key, (), choices("d 1"), "corpus")),
        draft((-1, " c"), (0, "d")),
    ]
    found = successors.warming(events)
    assert (tuple(part.id for part in key) in found.read) is known
    assert [row.source for row in found.rows.values()] == (
        ["corpus"] if known or prompt == "c" else ["corpus", "not shown"]
    )


def legend(events: Sequence[Event]) -> str:
    return next(text for text in heads(drawn(events)) if text.startswith("▸"))


def test_the_legend_says_whether_rows_are_written_before_the_draft_or_after_it() -> None:
    assert legend(recycling()) == "▸ read by the draft · ✎ written after it"
    assert legend(trigrams()) == "▸ read by the draft · ✎ written before it"
    assert legend(recycling()[:6]) == "▸ read by the draft · ✎ written", "no step has both yet"


def test_what_the_legend_says_holds_until_a_step_says_otherwise() -> None:
    plain_pass = store(row("g", "h 1", "text"), table="trigrams")
    assert legend([*trigrams(), plain_pass]).endswith("written before it")
    assert legend([*trigrams(), plain_pass, draft((-1, "g"), (0, "h"))]).endswith("written before it")
    both = [*trigrams()[:-1], plain_pass]
    assert legend(both).endswith("✎ written")


def test_the_narration_tells_the_latest_step_in_its_order() -> None:
    assert "In the latest step 3 rows were written, then the draft was read from 2 rows." in successors.narrate(
        trigrams()
    )
    once = [*recycling(), draft((-1, "in"), (0, "range")), verdict(1), store(row("in", "range 1", "root"), size=4)]
    assert "the draft was read from 1 row, then 1 row was written." in successors.narrate(once)
    assert "the draft was read from 2 rows, and none has been written yet." in successors.narrate(recycling()[:6])
    assert "no row shown here was read and 1 row was written." in successors.narrate(recycling()[:2])


def test_rows_that_were_read_come_before_any_number_of_rows_that_were_written() -> None:
    written = [row(f"k{number} l", "x 1", "text") for number in range(14)]
    events = [commit("b", "c"), store(*written, row("b c", "d 1", "text"), size=15), draft((-1, "c"), (0, "d"))]
    assert lines(drawn(events))[0] == "▸ | ✎ | b c | d 1.0"


def test_a_row_that_no_event_has_shown_stands_with_its_guesses_alone() -> None:
    """The table may hold thousands of rows, and an event names at most sixteen."""
    events = [
        commit("a", "b", "c"),
        store(row("a b", "c 1", "text"), size=500, table="trigrams"),
        draft((-1, "c"), (0, "d"), (0, "e"), (1, "f")),
    ]
    assert legend(events).endswith("?: only its guesses are known")
    assert lines(drawn(events)) == ["▸ | b c | ? | d | e", "▸ | c d | ? | f", "✎ | a b | c 1.0"]
    assert "then the draft was read from 2 rows." in successors.narrate(events)
    assert "1 written, then 2 read" in heads(drawn(events))[1]
    judged = [*events, verdict(1, 3), commit("d", "f", "g")]
    assert lines(drawn(judged))[0] == "▸ | b c | ? | ✓d | e"
    assert successors.warming(judged).accepted == 0, "nobody knows how such a row came about"
    assert len(successors.table(judged)) == 1, "weights that nobody knows are not in the table of numbers"


def test_what_an_event_shows_later_replaces_what_was_guessed() -> None:
    events = [
        commit("a", "b", "c"),
        store(row("a b", "c 1", "text"), table="trigrams"),
        draft((-1, "c"), (0, "d")),
        verdict(1),
        commit("d", "g"),
        store(row("b c", "d 2, h 1", "text"), table="trigrams"),
    ]
    assert lines(drawn(events))[0] == "✎ | b c | d 2.0 | h 1.0"


def test_no_empty_text_is_drawn() -> None:
    """Plotly would lose a word of another trace when traces are exchanged in the page."""
    for stop in range(2, len(recycling()) + 1):
        words = [trace for trace in drawn(recycling()[:stop])["data"] if trace["mode"] == "text"]
        assert all(text for trace in words for text in trace["text"])


def test_weights_above_one_are_shaded_as_shares() -> None:
    drawing = drawn([store(row("a", "b 2.4, c 0.6", "text"))])
    assert boxes(drawing, SURE[5]) == 1  # 0.8 of the row
    assert boxes(drawing, SURE[2]) == 1  # 0.2
    assert boxes(drawn([store(row("a", "b .3", "root"))]), SURE[3]) == 1, "a probability stays as it is"


def test_a_long_row_says_how_many_more_there_are() -> None:
    assert lines(drawn(trigrams()))[2].endswith("| w2 .02 | +1")


def test_the_twelve_rows_of_latest_use_are_shown() -> None:
    steps: list[Event] = []
    for number in range(20):
        steps += [store(row(f"k{number}", "x 1", "root"), size=number + 1), commit("x")]
    assert [line.split(" | ")[-2] for line in lines(drawn(steps))] == [f"k{number}" for number in range(19, 7, -1)]
    read_again = [*steps, draft((-1, "k2"), (0, "x"))]
    assert lines(drawn(read_again))[0] == "▸ | k2 | x 1.0"


def test_another_table_does_not_mix_in() -> None:
    both = [*trigrams(), store(row("q", "r 1", "root"))]
    assert lines(drawn(both)) == ["✎ | q | r 1.0"]


def test_hovering_a_key_says_where_its_row_comes_from_and_what_it_said_before() -> None:
    told = drawn(recycling())["data"][-1]["customdata"]
    assert (
        "in<br>came from: root<br>read by the latest draft<br>written in the latest step<br>before: range zip" in told
    )
    assert "zip<br>came from: rejected<br>written in the latest step<br>before: nothing" in told
    assert "range<br>rank 1 · 0.700<br>guessed, accepted" in told


def test_narration_and_table() -> None:
    assert successors.narrate(recycling()) == (
        "The table holds 4 rows. In the latest step the draft was read from 2 rows, then 4 rows were "
        "written. 1 of 4 rows came from a rejected guess. "
        "Accepted guesses that were read from such rows: 0 of 2. "
        "After “in” its first guess is “range”, with 0.70."
    )
    rows = successors.table(recycling())
    assert len(rows) == 6
    assert rows[0] | {"id": 0, "key_ids": ""} == {
        "table": "successors",
        "key": "in",
        "key_ids": "",
        "came_from": "root",
        "rank": 1,
        "id": 0,
        "text": "range",
        "hex": "",
        "weight": 0.7,
    }
    assert "“b” “c”" in successors.narrate(trigrams())


def hostile() -> list[Event]:
    """Token texts, table and source that try to break out, odd weights, trees that are none."""
    events: list[Event] = []
    for bad in HOSTILE:
        weights = (float("nan"), float("inf"), -1.0, 0.0, 1e30)
        events += [
            store(
                StoredRow((bad,), (), tuple(Choice(other, p) for other, p in zip(HOSTILE, weights, strict=False))),
                StoredRow((bad, bad), (Choice(bad, 0.1),), (), "<a>source</a>"),
                StoredRow((), (), (Choice(bad, 0.5),), "rejected"),
                table="<b>table</b>",
            ),
            Draft(position=0, nodes=(DraftNode(0, 0, bad, None, ""), DraftNode(1, 0, bad, None, ""))),
            Draft(position=0, nodes=(DraftNode(0, 1, bad, None, ""), DraftNode(1, 0, bad, None, ""))),
            verdict(1, 7),
            Commit(position=0, step=0, tokens=(Placed(bad, "drafted"),)),
        ]
    return events


@pytest.mark.parametrize("stream", [recycling, trigrams, hostile])
def test_any_prefix_and_any_order_can_be_drawn(stream: Any) -> None:
    events = stream()
    for stop in range(len(events) + 1):
        check(PICTURE, events[:stop])
    random.Random(0).shuffle(events)
    for stop in range(len(events) + 1):
        check(PICTURE, events[:stop])


def test_hostile_text_never_becomes_markup() -> None:
    for string in strings(drawn(hostile())):
        assert not any(bad in string for bad in ("<script", "<a", "<b>table", "\u202e", "\x00", "\n"))


def test_a_long_run_is_drawn_at_once() -> None:
    """About 5 ms of processor time; the bound allows for a slow machine."""
    rng = random.Random(1)
    names = [Token(number, f"{word}{number}") for number, word in enumerate(WORDS * 20)]
    events: list[Event] = []
    for _ in range(300):
        tokens = rng.sample(names, 13)
        nodes = tuple(DraftNode(id, (id - 1) // 3 if id else -1, name, None, "") for id, name in enumerate(tokens))
        rows = [StoredRow((name,), (), tuple(Choice(t, 0.1) for t in tokens[:8]), "rejected") for name in tokens]
        events += [Draft(position=0, nodes=nodes), verdict(1, 4), store(*rows), commit("a", "b")]
    seconds = []
    for _ in range(3):
        begin = time.process_time()
        successors.draw(events)
        seconds.append(time.process_time() - begin)
    print(f"{1000 * min(seconds):.1f} ms")
    assert min(seconds) < 0.1

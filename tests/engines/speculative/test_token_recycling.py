"""Token Recycling: the template, the table, and what they do to a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from engines.events import Choice, Commit, Draft, Event, Finished, Note, Store, Token, Totals, Verdict
from engines.method import Need
from engines.models.causal import CausalModel, ancestors
from engines.runner import Run, run
from engines.sampling import Sampler
from engines.speculative import memory, token_recycling
from engines.speculative.loop import speculate
from engines.speculative.token_recycling import (
    ADAPT_EVERY,
    TEMPLATE,
    Params,
    Recycler,
    Table,
    likeliest_first,
    node_chance,
)
from engines.speculative.tree import TokenTree
from engines.speculative.verify import Verification, verify
from tests.engines.toy import ToyModel, toy_run

WORDS = ["for", "i", "j", "in", "=", "+", "range", "zip", "x", "(", "n", "len", ",", "a", "b"]
ID = {word: id for id, word in enumerate(WORDS)}

EXAMPLE = "for:i j x; i:in = +; j:in + =; in:range zip x; range:( n len; zip:( a b"
EXAMPLE_TEMPLATE = ["0", "1", "00", "01", "10", "000", "001", "0000"]


def spell(id: int) -> Token:
    return Token(id, WORDS[id])


def table(rows: str) -> Table:
    """`for:i j x; …` as a table; the probabilities fall by halves."""
    split = (row.split(":") for row in rows.split(";"))
    return {
        ID[key.strip()]: tuple(Choice(spell(ID[word]), 0.5**rank) for rank, word in enumerate(words.split(), 1))
        for key, words in split
    }


def words(row: Sequence[Choice]) -> str:
    return " ".join(choice.token.text for choice in row)


def says(*sequels: str) -> Tensor:
    """Logits (nodes, vocabulary) of a model whose best tokens after each node are these words."""
    logits = torch.zeros(len(sequels), len(WORDS))
    for node, best in enumerate(sequels):
        for rank, word in enumerate(best.split()):
            logits[node, ID[word]] = 9.0 - rank
    return logits


def observed(recycler: Recycler, tree: TokenTree, logits: Tensor, path: list[int], extra: int = 0) -> Store:
    """What one pass leaves in the table."""
    events = list(recycler.observe(tree, logits, Verification("greedy", path=path, extra=extra)))
    assert isinstance(events[-1], Store)
    return events[-1]


# The template


def test_the_template_is_the_published_one() -> None:
    assert len(set(TEMPLATE)) == 80
    assert [Counter(map(len, TEMPLATE))[level] for level in range(1, 7)] == [8, 21, 25, 15, 8, 3]
    assert all(path[:-1] in TEMPLATE for path in TEMPLATE if len(path) > 1)
    second = Counter(path[0] for path in TEMPLATE if len(path) == 2)
    assert [second[rank] for rank in "01234567"] == [8, 4, 3, 2, 1, 1, 1, 1]
    assert {path for path in TEMPLATE if len(path) == 6} == {"000000", "000001", "000100"}


@pytest.mark.parametrize("width", [1, 3, 8])
def test_every_budget_keeps_parents_and_prefers_likely_nodes(width: int) -> None:
    order = likeliest_first(width)
    chances = [node_chance(path) for path in order]
    assert chances == sorted(chances, reverse=True)
    for size in range(1, len(order) + 1):
        kept = set(order[:size])
        assert all(path[:-1] in kept for path in kept if len(path) > 1)


@given(st.lists(st.text("01234567", max_size=7), max_size=60))
@example(["7" * 9])
def test_what_was_counted_can_change_the_order_but_not_tear_the_tree(paths: list[str]) -> None:
    hits = Counter(path[:stop] for path in paths for stop in range(len(path) + 1))
    place = {path: number for number, path in enumerate(likeliest_first(8, hits))}
    assert place.keys() == {*TEMPLATE, *hits} - {""}
    assert all(place[path[:-1]] < place[path] for path in place if len(path) > 1)


def test_each_node_sees_itself_and_its_ancestors() -> None:
    name = {path: number for number, path in enumerate(["", *TEMPLATE])}
    full: Table = {
        name[path]: tuple(Choice(Token(name.get(f"{path}{rank}", -1), ""), 0.1) for rank in range(8)) for path in name
    }
    tree = Recycler(TEMPLATE, 8, full).read(0)
    mask, _ = ancestors(tree.parents)
    assert len(tree) == 81
    assert [Counter(tree.depths)[depth] for depth in range(7)] == [1, 8, 21, 25, 15, 8, 3]
    assert mask.sum(1).tolist() == [depth + 1 for depth in tree.depths]


# The worked example: three successors, eight nodes


def test_the_worked_example_fills_the_tree_level_by_level() -> None:
    tree = Recycler(EXAMPLE_TEMPLATE, 3, table(EXAMPLE)).read(ID["for"])
    assert [WORDS[token] for token in tree.tokens] == ["for", "i", "j", "in", "=", "in", "range", "zip", "("]
    assert tree.parents == [-1, 0, 0, 1, 1, 2, 3, 3, 6]


def walk() -> tuple[TokenTree, Tensor, Verification]:
    """The example's tree, and a model that would say: i in zip ( …"""
    tree = Recycler(EXAMPLE_TEMPLATE, 3, table(EXAMPLE)).read(ID["for"])
    logits = says("i j x", "in = +", "+ in =", "zip range x", "n len a", "x ( a", "( n a", "( b n", "n a b")
    return tree, logits, verify(tree, logits, Sampler(Params(), spell), torch.Generator())


def test_the_worked_example_gains_four_tokens_in_one_pass() -> None:
    tree, _, verdict = walk()
    assert verdict.path == [1, 3, 7]
    assert [WORDS[tree.tokens[node]] for node in verdict.path] == ["i", "in", "zip"]
    assert WORDS[verdict.extra] == "("
    assert verdict.extra_origin(tree) == "bonus"


@pytest.mark.parametrize(("duplicates", "row"), [("path last", "zip range x"), ("last", "x ( a")])
def test_in_the_worked_example_the_key_in_is_written_twice(duplicates: Literal["path last", "last"], row: str) -> None:
    rows = table(EXAMPLE)
    tree, logits, verdict = walk()
    told = observed(Recycler(EXAMPLE_TEMPLATE, 3, rows, spell, duplicates), tree, logits, verdict.path)
    assert words(rows[ID["in"]]) == row
    if duplicates == "path last":
        assert words([Choice(row.key[0], 1.0) for row in told.rows[:4]]) == "for i in zip", "the path in its order"


# Reading


def test_unknown_rows_are_pruned_with_all_that_would_hang_on_them() -> None:
    assert len(Recycler(["0", "00"], 2, {}).read(5)) == 1
    rows = table("for:i j; i:in")
    tree = Recycler(["0", "1", "00", "01", "10", "000", "0000"], 2, rows).read(ID["for"])
    assert [WORDS[token] for token in tree.tokens] == ["for", "i", "j", "in"]


# Writing


@given(st.integers(0, 10_000), st.integers(1, 8), st.data())
def test_after_a_pass_each_row_is_the_top_of_its_nodes_logits(seed: int, width: int, data: st.DataObject) -> None:
    """Ids and probabilities; each key stands once in the tree."""
    logits = torch.randn(6, len(WORDS), generator=torch.Generator().manual_seed(seed))
    tree = TokenTree(0)
    for token in range(1, 6):
        tree.add(data.draw(st.integers(0, token - 1)), token, "")
    rows: Table = {}
    observed(Recycler(["0"], width, rows), tree, logits, [])
    best = logits.softmax(-1).topk(width)
    for node in range(6):
        assert [choice.token.id for choice in rows[node]] == best.indices[node].tolist()
        assert [choice.p for choice in rows[node]] == pytest.approx(best.values[node].tolist())


def test_every_node_teaches_and_the_event_says_in_which_role() -> None:
    rows = table("for:i j; i:in =; j:in +")
    tree = Recycler(["0", "1", "00", "01"], 2, rows, spell).read(ID["for"])  # for, i, j, in, =
    told = observed(Recycler([], 2, rows, spell), tree, says("i x", "zip i", "a b", "len n", "("), [1])
    assert [(row.key[0].text, words(row.before), words(row.after), row.source) for row in told.rows[:4]] == [
        ("for", "i j", "i x", "root"),
        ("i", "in =", "zip i", "accepted"),
        ("j", "in +", "a b", "rejected"),
        ("in", "", "len n", "rejected"),
    ]
    assert told.table == "successors"
    assert told.changed == 5
    assert told.size == len(rows) == 5
    assert all(rows[row.key[0].id] == row.after for row in told.rows)


def test_the_event_names_the_path_first_then_rows_with_another_first_successor() -> None:
    rows = table("for:i j; i:in =; j:in +; =:a b; in:n len")
    tree = TokenTree(ID["for"])
    j = tree.add(0, ID["j"], "")
    i = tree.add(0, ID["i"], "")
    tree.add(i, ID["="], "")
    tree.add(i, ID["in"], "")
    assert (j, i) == (1, 2)
    told = observed(Recycler([], 2, rows, spell), tree, says("i j", "in x", "in =", "a b", "len n"), [2])
    assert [row.key[0].text for row in told.rows] == ["for", "i", "in", "j", "="]


def test_the_event_shows_sixteen_rows_and_counts_all() -> None:
    tree = TokenTree(0)
    for token in range(1, 41):
        tree.add(0, token, "")
    told = observed(Recycler([], 8, {}), tree, torch.randn(41, 50), [30])
    assert len(told.rows) == 16
    assert [row.source for row in told.rows[:3]] == ["root", "accepted", "rejected"]
    assert told.changed == told.size == 41


# In a run


class TreeReader(ToyModel):
    """A toy that reads trees: a node's logits depend on its token only."""

    has = Need.TREE_ATTENTION | Need.ROLLBACK


def cycle(length: int = 20) -> ToyModel:
    """A model that says its letters in order, round and round; letter 0 ends the text and is never said."""
    letters = ".abcdefghijklmnopqrstuvwxyz"[: length + 1]
    probabilities = [[0.01] * (length + 1) for _ in letters]
    for before, token in pairwise([*range(1, length + 1), 1]):
        probabilities[before][token] = 0.9
    return TreeReader(letters, probabilities)


class Forgetful(Recycler):
    """Never writes."""

    def observe(self, tree: TokenTree, logits: Tensor, verification: Verification) -> Iterator[Event]:
        yield from ()


def gains(recycler: Recycler) -> list[int]:
    """Tokens of every pass, over two copies of a text of twenty."""
    job = toy_run(cycle(), "a", max_new_tokens=40)
    return [len(event.tokens) for event in speculate(job, recycler, Params()) if isinstance(event, Commit)]


def test_the_second_copy_of_a_text_is_read_from_the_table() -> None:
    steps = gains(Recycler(likeliest_first(8)[:20], 8, {}))
    assert steps[:20] == [1] * 20
    assert len(steps[20:]) <= 5
    assert sum(steps) == 40


def test_nothing_is_guessed_from_a_table_that_is_never_written() -> None:
    assert gains(Forgetful(likeliest_first(8)[:20], 8, {})) == [1] * 40


def finished(events: list[Event]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


def test_a_second_run_over_a_text_is_drafted_from_the_first(smollm: CausalModel) -> None:
    """The table has seen every token of the text, so that most passes yield more than one."""

    def totals() -> Totals:
        params = {"nodes": 40, "memory": "hot", "fallback": False}
        return finished(
            list(run(smollm, "token-recycling", "Why is the sky blue?", params=params, max_new_tokens=40))
        ).totals

    memory.forget()
    first, second = totals(), totals()
    assert second.tokens_per_target_pass > 1.3 * first.tokens_per_target_pass
    assert second.accepted + second.rejected + second.untested == second.drafted


def passes_without_a_draft(model: CausalModel, prompt: str, **params: object) -> int:
    """Commits before the first draft."""
    commits = 0
    settings = {"nodes": 4, "fallback": False, **params}
    for event in run(model, "token-recycling", prompt, params=settings, raw=True, max_new_tokens=60):
        if isinstance(event, Draft):
            break
        commits += isinstance(event, Commit)
    return commits


def test_hot_runs_share_a_table_and_cold_ones_do_not(tiny_llama: CausalModel) -> None:
    assert passes_without_a_draft(tiny_llama, "hot or cold", memory="cold") > 0
    hot = {"nodes": 4, "memory": "hot", "fallback": False}
    list(run(tiny_llama, "token-recycling", "hot or cold", params=hot, raw=True))
    assert passes_without_a_draft(tiny_llama, "hot or cold", memory="hot") == 0
    assert passes_without_a_draft(tiny_llama, "hot or cold", memory="cold") > 0


def test_the_budget_is_chosen_from_the_measured_cost_and_said(tiny_llama: CausalModel) -> None:
    events = list(run(tiny_llama, "token-recycling", "abc", max_new_tokens=4))
    assert any(isinstance(event, Note) and "per pass should pay best" in event.text for event in events)


def test_one_guess_is_a_tree_too(tiny_llama: CausalModel) -> None:
    events = list(run(tiny_llama, "token-recycling", "abc", params={"nodes": 1, "fallback": False}, max_new_tokens=60))
    assert all(len(event.nodes) == 1 for event in events if isinstance(event, Verdict))


@pytest.mark.parametrize(
    "options", [{}, {"recycle_prompt": True}, {"duplicates": "last"}, {"adapt": True}], ids=lambda options: [*options]
)
@pytest.mark.parametrize("nodes", [1, 30])
def test_the_text_is_plain_greedys(tiny_llama: CausalModel, options: dict[str, object], nodes: int) -> None:
    params = {"nodes": nodes, "memory": "hot", "fallback": False, **options}
    memory.forget()
    cold, warm = (
        finished(list(run(tiny_llama, "token-recycling", "abcab", params=params, max_new_tokens=100))) for _ in range(2)
    )
    greedy = finished(list(run(tiny_llama, "greedy", "abcab", max_new_tokens=100)))
    assert cold.token_ids == warm.token_ids == greedy.token_ids
    assert warm.totals.accepted > 0


# The prompt's ranks


def test_the_prompt_teaches_what_the_model_would_say_after_its_tokens(tiny_llama: CausalModel) -> None:
    """Each token at its last place, the last token of all aside: the first pass will read that one."""
    events = list(run(tiny_llama, "token-recycling", "abcabd", params={"recycle_prompt": True, "nodes": 4}, raw=True))
    first = next(event for event in events if isinstance(event, Store))
    assert [(row.key[0].text, row.source) for row in first.rows] == [(key, "prompt") for key in "bac"]
    assert first.changed == first.size == 3
    best = tiny_llama.start().extend(tiny_llama.encode("abcabd", raw=True)).softmax(-1).topk(8)
    for row, place in zip(first.rows, (4, 3, 2), strict=True):
        assert [choice.token.id for choice in row.after] == best.indices[place].tolist()
        assert [choice.p for choice in row.after] == pytest.approx(best.values[place].tolist(), abs=1e-4)


def test_a_cold_run_can_guess_at_once_when_the_prompt_was_recycled(tiny_llama: CausalModel) -> None:
    assert passes_without_a_draft(tiny_llama, "abcabc", recycle_prompt=True) == 0
    assert passes_without_a_draft(tiny_llama, "abcabc", recycle_prompt=False) > 0


def test_a_prompt_of_one_token_teaches_nothing(tiny_llama: CausalModel) -> None:
    events = list(run(tiny_llama, "token-recycling", "a", params={"recycle_prompt": True, "nodes": 4}, raw=True))
    assert all(row.source != "prompt" for event in events if isinstance(event, Store) for row in event.rows)


def test_of_a_long_prompt_the_end_teaches(tiny_llama: CausalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_recycling, "RECYCLED_PROMPT", 5)
    monkeypatch.setattr(token_recycling, "PROMPT_CHUNK", 2)
    params = {"recycle_prompt": True, "nodes": 4}
    events = run(tiny_llama, "token-recycling", "abcdefghijklm", params=params, raw=True, max_new_tokens=4)
    first = next(event for event in events if isinstance(event, Store))
    assert [row.key[0].text for row in first.rows] == list("lkjih")


# A template that adapts


def confirm(recycler: Recycler, passes: int) -> list[Event]:
    """Passes whose own token always stands third in the root's row."""
    return [
        event
        for _ in range(passes)
        for event in recycler.observe(
            TokenTree(ID["for"]), says("i j x"), Verification("greedy", path=[], extra=ID["x"])
        )
        if not isinstance(event, Store)
    ]


def test_the_template_turns_to_what_was_right_even_if_it_lacked_it() -> None:
    recycler = Recycler(["0", "00"], 3, table("for:i j x"), spell, hits=Counter())
    assert confirm(recycler, ADAPT_EVERY - 1) == []
    assert recycler.template == ["0", "00"]
    (note,) = confirm(recycler, 1)
    assert recycler.template == ["0", "2"]
    assert isinstance(note, Note)
    assert note.text == "After 200 passes the tree is rebuilt from what was right: 1 of its 2 places are new."


def test_a_whole_path_is_counted_with_the_pass_s_own_token_behind_it() -> None:
    hits: Counter[str] = Counter()
    rows = table(EXAMPLE)
    tree, logits, verdict = walk()
    observed(Recycler(EXAMPLE_TEMPLATE, 3, rows, spell, hits=hits), tree, logits, verdict.path, verdict.extra)
    assert hits == {"": 1, "0": 1, "00": 1, "001": 1, "0010": 1}


def test_without_the_option_the_template_stays() -> None:
    recycler = Recycler(["0", "00"], 3, table("for:i j x"), spell)
    assert confirm(recycler, 2 * ADAPT_EVERY) == []
    assert recycler.template == ["0", "00"]


def test_hot_runs_go_on_with_the_counts_of_earlier_ones(tiny_llama: CausalModel) -> None:
    memory.forget()
    params = {"nodes": 6, "memory": "hot", "adapt": True, "fallback": False}
    for _ in range(2):
        list(run(tiny_llama, "token-recycling", "abc", params=params, max_new_tokens=130, raw=True))
    _, hits = memory.remembered(Run(tiny_llama, [1]), "token-recycling")[8]
    passes = hits[""]
    assert passes > 130
    events = list(run(tiny_llama, "token-recycling", "abc", params=params, max_new_tokens=10, raw=True))
    assert hits[""] == passes + finished(events).totals.target_passes

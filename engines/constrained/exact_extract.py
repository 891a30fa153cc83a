"""exact-extract: of all spans of a passage, the one that the model finds most probable, for certain.

"How Optimal is Greedy Decoding for Extractive Question Answering?", Castel et al., arXiv 2108.05857.

An answer that must be a span of the passage need not be searched for token by token: there are few spans, and those
that begin alike share their computation. Passage tokens x_1 … x_n, prompt c, end marker E.

    1. x ← the passage in the prompt: what stands behind the last `Text:` (also `Passage:`, `Context:`) at the start of
       a line and before the next line that begins with `Question:`; without such a heading the paragraph before the
       last question
    2. l(i, k) ← log P(x_{i+k} | c, x_i … x_{i+k-1}), L(i, k) ← l(i, 0) + … + l(i, k)
    3. e(i, k) ← log P(E | c, x_i … x_{i+k}), one step later than l(i, k)
    4. S(i, k) ← L(i, k) + e(i, k) for all spans of at most `cap` tokens; by `normalise` over its number of tokens + 1
    5. the answer is the span of greatest S; of equal ones the first start, then the shortest

Three ways to the same S:
    packed    all distinct beginnings of spans in one trie, read in one pass in which a node sees its ancestors only;
              a trie of more than `MOST_NODES` nodes is cut into several passes
    chunked   the paper's: one row per start, `chunk` rows side by side, nothing shared
    lazy      best first. As log-probabilities are never positive, L(v) bounds every span that begins with v: what is
              bounded below the best S so far is never read. `chunk` nodes a pass, with their ancestors

Exact within the cap. The paper's models are encoder-decoders with the markers <extra_id_0> and <extra_id_1>; ours is
decoder-only, E is a line break (any token that begins with one), the end of the text, or either of both, whose
probabilities then add up. Spans begin and end at the passage's own tokens, and none reaches across an E; white space
alone is no answer. The paper's normalisation counts both markers, ours has only one. After a prompt that ends in white
space, as chat templates do, an answer does not begin with the space that stands before a word: `space` drops it.

`as_published` repeats an error of the published code: e is shifted by a cyclic roll, so spans of exactly `cap` tokens
take P(E) from before their first token when the cap is shorter than the passage.

To compare: greedy decoding up to E, and constrained greedy, which takes the most probable token of those that go on
with the span or end it (a suffix automaton, `engines.grammars.substring`).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from torch import Tensor

from engines.constrained.passage import End, NoPassage, Passage, Space, end_tokens, find_passage
from engines.constrained.spans import NEVER, Ranking, Scores, SpanTrie, best_cell, log_sum, span_trie, unread
from engines.events import Event, Mark, Matrix, Note, Score, Token
from engines.grammars.gate import Gate
from engines.grammars.substring import Substring
from engines.method import Need, Paper, method
from engines.runner import Run

MOST_NODES = 256
"""Of one packed pass."""
MOST_CELLS = 50_000
GREEDY_TOKENS = 24
"""Greedy decoding is followed so far, or to twice the cap."""
TOP = 8
"""Spans that are listed."""

Search = Literal["packed", "lazy", "chunked"]
Decode = Literal["exact", "constrained greedy"]


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    cap: Annotated[int, Meta(ge=1, le=128, description="Tokens of a span at most")] = 12
    search: Annotated[
        Search,
        Meta(description="packed: all spans in one trie; lazy: best first, prunes; chunked: start by start"),
    ] = "packed"
    decode: Annotated[
        Decode, Meta(description="The best span of all, or the one that greedy choices among its tokens lead to")
    ] = "exact"
    end: Annotated[End, Meta(description="What ends an answer")] = "both"
    normalise: Annotated[bool, Meta(description="Divide a span's score by its number of tokens, the end included")] = (
        False
    )
    chunk: Annotated[int, Meta(ge=1, le=64, description="Starts (chunked) or nodes (lazy) in one pass")] = 8
    space: Annotated[
        Space,
        Meta(description="The space before a span's first word; automatic: dropped after a prompt that ends in one"),
    ] = "automatic"
    compare: Annotated[bool, Meta(description="Also decode greedily, to compare")] = True
    as_published: Annotated[
        bool, Meta(description="With the published code's error: spans of exactly cap tokens take a wrong end")
    ] = False


def packed(run: Run, scores: Scores) -> Iterator[int]:
    """Reads the trie in as few passes as `MOST_NODES` allows; yields the number of nodes of each pass."""
    order = scores.trie.preorder()
    at = 0
    while at < len(order):
        # Of what an earlier pass read, only the ancestors of the first node here are needed again.
        again = scores.trie.path(order[at])[:-1]
        size = max(1, MOST_NODES - len(again))
        fresh = order[at : at + size]
        _read_nodes(run, scores, [*again, *fresh], len(again))
        at += len(fresh)
        yield len(again) + len(fresh)


def lazy(run: Run, scores: Scores, ranking: Ranking, chunk: int) -> Iterator[int]:
    """Best first: reads nodes while they could begin a span at least as good as the best so far."""
    trie = scores.trie
    deepest = list(trie.depths)
    for node in reversed(range(len(trie.tokens))):
        if (parent := trie.parents[node]) >= 0:
            deepest[parent] = max(deepest[parent], deepest[node])
    lengths: list[list[tuple[int, int]]] = [[] for _ in trie.tokens]
    for start, nodes in enumerate(trie.cells):
        for length, node in enumerate(nodes, 1):
            if node >= 0:
                lengths[node].append((start, length))

    def bound(node: int) -> float:
        # Over more tokens the same sum weighs less, so that of the longest span below is the safe one.
        return ranking.weigh(scores.paths[node] or 0.0, deepest[node])

    queue = [(-bound(node), node) for node in trie.children[0].values()]
    heapq.heapify(queue)
    best = NEVER
    while queue and -queue[0][0] >= best:
        fresh: list[int] = []
        while queue and len(fresh) < chunk and -queue[0][0] >= best:
            fresh.append(heapq.heappop(queue)[1])
        again = sorted({step for node in fresh for step in trie.path(node)[:-1]} - set(fresh))
        _read_nodes(run, scores, [*again, *fresh], len(again))
        for node in fresh:
            for start, length in lengths[node]:
                value = ranking.cell(scores, start, length)
                best = best if value is None else max(best, value)
            for child in trie.children[node + 1].values():
                heapq.heappush(queue, (-bound(child), child))
        yield len(again) + len(fresh)


def _read_nodes(run: Run, scores: Scores, nodes: Sequence[int], known: int) -> None:
    """One pass over these nodes, parents first; the first `known` were read before. The cache stays as it was."""
    trie = scores.trie
    place = {node: index for index, node in enumerate(nodes)}
    parents = [place.get(trie.parents[node], -1) for node in nodes]
    logits = run.state.extend([trie.tokens[node] for node in nodes], parents)
    run.state.keep([])
    for index, node in enumerate(nodes[known:], known):
        scores.learn(node, logits[index])


def chunked(run: Run, scores: Scores, chunk: int) -> Iterator[int]:
    """The paper's way: a row per start, `chunk` of them side by side. What starts have in common is read again."""
    trie = scores.trie
    starts = [nodes[-1] for nodes in trie.cells if nodes and nodes[-1] >= 0]
    for at in range(0, len(starts), chunk):
        paths = [trie.path(node) for node in starts[at : at + chunk]]
        longest = max(map(len, paths))
        # What stands behind a row's own end is read too, and of no consequence.
        rows = [[*(trie.tokens[node] for node in path), *[run.root] * (longest - len(path))] for path in paths]
        logits = run.state.fork(len(rows)).extend(rows)
        for path, row in zip(paths, logits, strict=True):
            for index, node in enumerate(path):
                scores.learn(node, row[index])
        yield len(rows) * longest


@dataclass(frozen=True, slots=True)
class Followed:
    """A text that was chosen token by token: where it led, and how probable it and its end are."""

    tokens: list[int]
    log_p: float
    end: float | None
    """log P(E) after it; None when it had not come to an end."""
    node: int | None = None
    """Of the trie, when all of it is a span."""

    @property
    def total(self) -> float:
        return self.log_p + (self.end or 0.0)


def greedy(run: Run, logits: Tensor, ends: Sequence[int], trie: SpanTrie, limit: int) -> Followed:
    """Plain greedy decoding up to an end marker, from the logits (vocabulary,) after the prompt; cache as before."""
    tokens: list[int] = []
    log_p = 0.0
    end: float | None = None
    while True:
        known = logits - logits.logsumexp(-1)
        token = int(known.argmax())
        if token in ends:
            end = log_sum(known[list(ends)].tolist())
            break
        if len(tokens) >= limit:
            break
        tokens.append(token)
        log_p += float(known[token])
        logits = run.state.extend([token])[-1]
    run.state.rollback(len(tokens))
    return Followed(tokens, log_p, end, trie.find(tokens) if tokens else None)


def constrained(scores: Scores) -> Followed | None:
    """Greedy choices between going on with a span and ending it, read off a trie; None where nobody has looked."""
    node, trie = -1, scores.trie
    ending = {cell for nodes in trie.cells for cell in nodes} - {-1}
    while True:
        children = list(trie.children[node + 1].values())
        known = [path for child in children if (path := scores.paths[child]) is not None]
        if len(known) < len(children) or (node >= 0 and scores.stops[node] is None):
            return None
        before = (scores.paths[node] or 0.0) if node >= 0 else 0.0
        end = scores.end_tokens[node] if node in ending else None
        best = max(children, key=lambda child: scores.paths[child] or 0.0, default=None)
        if best is None or (end is not None and end[1] >= (scores.paths[best] or 0.0) - before):
            if node < 0:
                return None
            return Followed(trie.text(node), before, None if node in trie.cut else scores.stops[node], node)
        node = best


def matrix_event(run: Run, passage: Passage, scores: Scores, ranking: Ranking, walked: Followed | None) -> Matrix:
    """S by start and length. Marks: `best`, its `duplicate`s, and the path of greedy decoding through the spans.

    A path is a `greedy` mark for each of its tokens, in the first row that begins so; its last one is `greedy ends`, or
    `greedy leaves` where it goes on with what no span has. `greedy outside` means that it never was in one.
    """
    trie = scores.trie
    ragged = ranking.matrix(scores)
    width = max(map(len, ragged))
    marks: list[Mark] = []
    top = best_cell(ragged)
    if top:
        winner = trie.cells[top[0]][top[1] - 1]
        marks.append(Mark(top[0], top[1] - 1, "best"))
        places = [(start, nodes.index(winner)) for start, nodes in enumerate(trie.cells) if winner in nodes]
        marks += [Mark(start, column, "duplicate") for start, column in places if start != top[0]]
    marks += _path_marks(trie, walked, top[0] if top else 0)
    return Matrix(
        name="spans",
        rows=tuple(_label(run.model.token(id)) for id in passage.tokens),
        columns=tuple(str(length) for length in range(1, width + 1)),
        values=tuple(tuple(_finite(value) for value in row) + (None,) * (width - len(row)) for row in ragged),
        row_name="first token",
        column_name="tokens",
        value_name="log-probability per token" if ranking.normalise else "log-probability",
        marks=tuple(marks),
    )


def _path_marks(trie: SpanTrie, walked: Followed | None, row: int) -> Iterator[Mark]:
    if walked is None:
        return
    cells: list[tuple[int, int]] = []
    for length in range(1, len(walked.tokens) + 1):
        node = trie.find(walked.tokens[:length])
        if node is None:
            break
        found = next(((start, nodes.index(node)) for start, nodes in enumerate(trie.cells) if node in nodes), None)
        # In the middle of a first word whose space was dropped no span ends.
        cells += [found] if found else []
    if not cells:
        yield Mark(row, 0, "greedy outside")
        return
    yield from (Mark(*cell, "greedy") for cell in cells)
    yield Mark(*cells[-1], "greedy ends" if walked.node is not None and walked.end is not None else "greedy leaves")


def _label(token: Token) -> str:
    return f"⟦{token.hex}⟧" if token.hex else token.text


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _said(run: Run, tokens: Sequence[int], most: int = 120) -> str:
    """A text in quotation marks, for a sentence."""
    text = run.model.decode(tokens)
    text = text.replace("\n", "⏎")
    return f"“{text if len(text) <= most else text[: most - 1] + '…'}”"


def _top(scores: Scores, ranking: Ranking) -> list[tuple[float, int]]:
    """The best distinct spans, as (S, node), best first."""
    found: dict[int, float] = {}
    for start, nodes in enumerate(scores.trie.cells):
        for length, node in enumerate(nodes, 1):
            value = ranking.cell(scores, start, length)
            if value is not None and math.isfinite(value):
                found[node] = max(value, found.get(node, NEVER))
    return sorted(((value, node) for node, value in found.items()), key=lambda one: (-one[0], one[1]))[:TOP]


def _comparison(
    run: Run, best: float, walked: Followed, narrow: Followed | None, winner: int, ranking: Ranking
) -> Iterator[Event]:
    """What greedy decoding says, and constrained greedy, beside the best span."""
    told = [("Greedy decoding", walked)] + ([("Constrained greedy", narrow)] if narrow else [])
    for name, one in told:
        said, score = _said(run, one.tokens), ranking.weigh(one.total, len(one.tokens))
        if not one.tokens:
            yield Note(text=f"{name} ends the answer at once, with nothing said (its end: {one.total:.3f}).")
            continue
        if one.end is None:
            yield Note(text=f"{name} had not come to an end after {len(one.tokens)} tokens: {said}.")
            continue
        if one.node is None:
            verdict = "that is no span of the passage within the cap"
        elif one.node == winner:
            verdict = "the best span"
        else:
            verdict = f"a span, {best - score:.3f} below the best"
        yield Note(text=f"{name} says {said} with {score:.3f}: {verdict}.")
        parts = {"span": one.log_p, "end": one.end}
        yield Score(name=name.lower(), value=score, parts=parts, text=run.model.decode(one.tokens))


def extract(run: Run, params: Params) -> Iterator[Event]:
    """The exact search."""
    ends = end_tokens(run, params.end)
    passage = find_passage(run, frozenset(ends), params.space)
    n = len(passage.tokens)
    room = run.model.context_length - len(run.sequence) - 1
    cap = max(1, min(params.cap, n, run.remaining - 1, room))
    if n * cap > MOST_CELLS:
        raise NoPassage(
            f"The passage has {n:,} tokens, which makes more than {MOST_CELLS:,} spans of up to {cap}. Shorten the "
            "passage, or choose a smaller cap."
        )
    trie = span_trie(passage, cap, frozenset(ends))
    spans = sum(node >= 0 for nodes in trie.cells for node in nodes)
    yield Note(
        text=f"The passage has {n} tokens. Its {spans} spans of {'any length' if cap == n else f'up to {cap} tokens'} "
        f"have {len(trie.tokens)} different beginnings."
    )
    ranking = Ranking(params.normalise, cap if params.as_published and cap < n else 0)
    logits = run.next_logits()
    first = run.candidates(logits)
    walked = None
    if params.compare:
        walked = greedy(run, logits, ends, trie, min(max(GREEDY_TOKENS, 2 * cap), max(0, room)))
        yield from run.settle()
    scores = unread(trie, ends, logits)
    match params.search:
        case "packed":
            passes = packed(run, scores)
        case "lazy":
            passes = lazy(run, scores, ranking, params.chunk)
        case "chunked":
            passes = chunked(run, scores, params.chunk)
    count = tokens = 0
    for read in passes:
        count, tokens = count + 1, tokens + read
        yield from run.settle()
        if run.out_of_time:
            yield Note(
                text="The time limit came before all spans were looked at; the answer is the best of those that were."
            )
            break
    yield Note(text=_effort(scores, params.search, count, tokens))
    yield matrix_event(run, passage, scores, ranking, walked)
    top = _top(scores, ranking)
    if not top:
        yield Note(text="No span has a probability above 0, so there is no answer.")
        return
    winner = _winner(scores, ranking)
    for rank, (value, node) in enumerate(top):
        parts = {"span": scores.paths[node] or 0.0, "end": scores.stops[node] or 0.0}
        text = run.model.decode(trie.text(node))
        yield Score(name="span", value=value, parts=parts, chosen=node == winner, sequence=rank, text=text)
    if walked is not None:
        yield from _comparison(run, top[0][0], walked, constrained(scores), winner, ranking)
    yield first
    yield from _commit(run, logits, trie.text(winner), ends)


def _winner(scores: Scores, ranking: Ranking) -> int:
    at = best_cell(ranking.matrix(scores))
    assert at is not None
    return scores.trie.cells[at[0]][at[1] - 1]


def _effort(scores: Scores, search: Search, passes: int, tokens: int) -> str:
    size, read = len(scores.trie.tokens), scores.read
    said = f"{passes} {'pass' if passes == 1 else 'passes'} over {tokens} tokens"
    if search == "lazy":
        return f"{said} looked at {read} of {size} beginnings; {size - read} were ruled out by their bound."
    return f"{said} looked at {read} of {size} beginnings."


def _commit(run: Run, logits: Tensor, tokens: Sequence[int], ends: Sequence[int]) -> Iterator[Event]:
    """Reads the answer once more, for what the model wanted along it, and appends it with its end marker."""
    after = run.state.extend(list(tokens))
    rows = [logits, *after]
    for offset, row in enumerate(rows[1:], 1):
        yield run.candidates(row, position=run.position + offset)
    end = max(ends, key=lambda id: float(rows[-1][id]))
    chosen = [*tokens, end]
    yield from run.commit(*(run.placed(id, logits=row) for id, row in zip(chosen, rows, strict=True)))
    run.state.rollback(max(0, run.state.length - len(run.sequence) + 1))


def extract_greedily(run: Run, params: Params) -> Iterator[Event]:
    """Constrained greedy: the most probable token of those that go on with a span of the passage or end it."""
    ends = end_tokens(run, params.end)
    passage = find_passage(run, frozenset(ends), params.space)
    vocabulary = run.model.vocabulary
    closing = sorted(set(ends) - vocabulary.ends)
    may_end = not vocabulary.ends.isdisjoint(ends)
    if passage.start_differs:
        # A first word without its space is cut into other tokens than in the passage.
        text: Sequence[int] = vocabulary.decode(passage.tokens)
        span = Substring(text, vocabulary, "bytes", closing=closing, may_end=may_end)
    else:
        span = Substring(passage.tokens, vocabulary, "tokens", closing=closing, may_end=may_end)
    run.gate = gate = Gate(span)
    while not run.finished:
        logits = run.next_logits()
        allowed = gate.filtered(logits, run.output)
        yield run.candidates(logits)
        token = int(allowed.argmax())
        yield from run.commit(run.placed(token, logits=logits, final=float(allowed.softmax(-1)[token])))
        if token in ends:
            return


@method(
    "exact-extract",
    title="Exact extraction",
    family="constrained",
    needs=Need.LOGITS | Need.TREE_ATTENTION | Need.ROLLBACK | Need.BATCH,
    paper=Paper(
        "How Optimal is Greedy Decoding for Extractive Question Answering?", "Castel et al.", 2022, "2108.05857"
    ),
    params=Params,
    idea="When the answer is a piece of a text that is given, there are few enough pieces to weigh them all, and take "
    "the most probable one for certain.",
    look_at="The map of spans: where the best one is, and where greedy decoding would have gone instead.",
    shines=("extract-lighthouse",),
    pictures=("span-matrix", "scores", "confidence", "token-stream"),
)
def exact_extract(run: Run, params: Params) -> Iterator[Event]:
    yield from extract(run, params) if params.decode == "exact" else extract_greedily(run, params)

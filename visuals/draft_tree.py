"""The latest tree of guesses, and what the model made of it.

Each column is one token further. One forward pass of the target judges all nodes; the path it confirms is green, and
the token that the pass itself yields stands at its end in blue. Numbers are the target's probability, or the draft's
(q) where a node was not tested.
"""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx

from engines.events import Draft, DraftNode, Event, Judged
from visuals.canvas import Boxes, drawing, hidden_axis, label, number, short
from visuals.palette import ROLES
from visuals.picture import Drawing, Row, picture
from visuals.reading import Step, depths, has, steps
from visuals.spelling import quoted, safe, visible

BOX, PITCH = 108, 124
HIGH, SLOT = 22, 30
TALLEST = 860
LETTER = 6.4
"""Pixels that a letter of the caption takes."""
EXTRA = -1
"""Node id of the token that the target's own pass yields."""


def relevant(events: Sequence[Event]) -> bool:
    """Whether anything was drafted."""
    return has(events, Draft)


def latest(events: Sequence[Event]) -> Step | None:
    """The last draft, with its verdict when there is one."""
    return next((step for step in reversed(steps(events)) if step.draft is not None), None)


def table(events: Sequence[Event]) -> list[Row]:
    """One row per guess of the latest draft."""
    step = latest(events)
    if step is None or step.draft is None:
        return []
    verdicts = {node.id: node for node in step.verdict.nodes} if step.verdict else {}
    deep = depths(step.draft)
    rows: list[Row] = []
    for node in step.draft.nodes[1:]:
        judged = verdicts.get(node.id)
        rows.append(
            {
                "node": node.id,
                "parent": node.parent,
                "position": step.draft.position + deep[node.id] - 1,
                "id": node.token.id,
                "text": node.token.text,
                "hex": node.token.hex,
                "source": node.source,
                "q": node.q,
                "outcome": judged.outcome if judged else None,
                "p": judged.p if judged else None,
                "accept_probability": judged.accept_probability if judged else None,
                "u": judged.u if judged else None,
            }
        )
    return rows


def narrate(events: Sequence[Event]) -> str:
    """How many guesses, how many of them right, and what the pass yielded."""
    step = latest(events)
    if step is None or step.draft is None:
        return "Nothing has been guessed yet."
    guesses = len(step.draft.nodes) - 1
    deepest = max(depths(step.draft).values(), default=0)
    ahead = "1 token" if deepest == 1 else f"up to {deepest} tokens"
    sentences = [
        f"The latest draft holds {guesses} {'guess' if guesses == 1 else 'guesses'}, {ahead} ahead of"
        f" position {step.draft.position}."
    ]
    verdict = step.verdict
    if verdict is None:
        return sentences[0] + " The model has not judged it yet."
    tested = sum(node.outcome != "untested" for node in verdict.nodes)
    sentences.append(f"One pass of the model tested {tested} of them and accepted {len(verdict.path)}.")
    names = {node.id: node for node in step.draft.nodes}
    if accepted := [quoted(names[id].token) for id in verdict.path if id in names]:
        sentences.append(f"Accepted: {' '.join(accepted)}.")
    if verdict.extra is not None:
        word = "As a bonus it yielded" if verdict.extra_origin == "bonus" else "Its correction is"
        sentences.append(f"{word} {quoted(verdict.extra)}.")
    return " ".join(sentences)


@picture(
    "draft-tree",
    title="Draft tree",
    explains="Each column is one token further. The path that the model confirms turns green; one pass checks all.",
    empty="Speculative methods guess ahead and let the model check all guesses in one pass. Try token recycling.",
    relevant=relevant,
    table=table,
    narrate=narrate,
    families=("speculative",),
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """The latest draft as a tree of boxes, left to right."""
    step = latest(events)
    if step is None or step.draft is None or not step.draft.nodes:
        return None
    verdict = step.verdict
    judged = {node.id: node for node in verdict.nodes} if verdict else {}
    root = step.draft.nodes[0]
    tree = nx.DiGraph()
    tree.add_node(root.id)
    for node in step.draft.nodes[1:]:
        if node.parent in tree and node.id not in tree:
            tree.add_edge(node.parent, node.id)
    end = verdict.path[-1] if verdict and verdict.path and verdict.path[-1] in tree else root.id
    if verdict is not None and verdict.extra is not None:
        tree.add_edge(end, EXTRA)
    places, slots = layout(tree, root.id, first=EXTRA)

    boxes = Boxes(BOX, HIGH)
    nodes = {node.id: node for node in step.draft.nodes}
    x, y = places[root.id]
    boxes.add("target", x, y, visible(root.token, 12), "", f"last token: {visible(root.token)}")
    for id in tree:
        if id == root.id:
            continue
        parent = next(tree.predecessors(id))
        x, y = places[id]
        if id == EXTRA and verdict is not None and verdict.extra is not None:
            role, p = "bonus", _extra_probability(step)
            token, shown = verdict.extra, p
            hover = (
                f"{visible(token)}<br>{verdict.extra_origin}: the model's own choice here<br>target p {number(p, 3)}"
            )
        else:
            node, verdict_on = nodes[id], judged.get(id)
            role = verdict_on.outcome if verdict_on else "untested" if verdict else "undecided"
            token = node.token
            p = verdict_on.p if verdict_on and verdict_on.p is not None else node.q
            shown, hover = p, _hover(node, verdict_on)
        mark = ROLES[role].mark
        right = f"{mark} {short(shown)}" if shown is not None else mark
        # What was judged can be looked into: see the rejection X-ray.
        looked_into = id if id in judged and judged[id].outcome != "untested" else None
        boxes.add(role, x, y, visible(token, 7), right, hover, looked_into)
        boxes.join(role, places[parent][0] + BOX, places[parent][1], x, y, strength=p)

    columns = 1 + max(round(place[0] / PITCH) for place in places.values())
    natural_high = slots * SLOT + 8
    # In steps, so that the page does not jump with every draft.
    height = min(max(-(-natural_high // 90) * 90, 180), TALLEST)
    natural_wide = columns * PITCH
    top, cut = 0.0, natural_high > height
    if cut:
        first, last = sorted((places[root.id][1], places[end][1]))
        middle = (first + last) / 2 if last - first < height - SLOT else places[end][1]
        top = min(max(middle - height / 2, 0), natural_high - height)
    said = _caption(step) + (" · drag for more" if cut else "")
    return drawing(
        boxes.traces(),
        height=height + 34,
        min_width=round(max(0.94 * natural_wide, LETTER * len(said))),
        margin={"t": 30, "b": 4},
        dragmode="pan",
        hoverdistance=50,
        # A pixel is a pixel in both directions, however wide the panel is: words and numbers keep their room.
        xaxis=hidden_axis(range=[-6, natural_wide], scaleanchor="y", constrain="domain", constraintoward="left"),
        yaxis=hidden_axis(range=[top + height, top], constrain="domain", constraintoward="top"),
        annotations=[label(said, 0, 1, yshift=6)],
    )


def layout(tree: nx.DiGraph, root: int, first: int) -> tuple[dict[int, tuple[float, float]], int]:
    """Left edge and middle of every node, and the number of rows: leaves take a row each, parents stand between.

    Children keep their order, except that node `first` comes before its siblings.
    """
    places: dict[int, tuple[float, float]] = {}
    column = nx.single_source_shortest_path_length(tree, root)
    rows = 0

    def order(nodes: Sequence[int]) -> list[int]:
        return sorted(nodes, key=lambda node: node != first)

    for node in nx.dfs_postorder_nodes(tree, root, sort_neighbors=lambda nodes: order(list(nodes))):
        children = [places[child][1] for child in tree.successors(node)]
        if children:
            y = (min(children) + max(children)) / 2
        else:
            y = rows * SLOT + SLOT / 2
            rows += 1
        places[node] = (column[node] * PITCH, y)
    return places, rows


def _caption(step: Step) -> str:
    count = len(step.draft.nodes) - 1 if step.draft else 0
    guesses = "1 guess" if count == 1 else f"{count} guesses"
    where = f"position {step.draft.position}" if step.draft else ""
    if step.verdict is None:
        return f"{where} · {guesses}, not judged yet"
    rule = f" · {safe(step.verdict.rule)}" if step.verdict.rule else ""
    return f"{where} · {len(step.verdict.path)} of {guesses} accepted{rule}"


def _extra_probability(step: Step) -> float | None:
    """The probability of the token that the pass yielded: from the verdict's residual, else from the commit."""
    verdict = step.verdict
    assert verdict is not None
    assert verdict.extra is not None
    for choice in verdict.residual:
        if choice.token.id == verdict.extra.id:
            return choice.p
    place = step.confirmed
    if place < len(step.placed) and step.placed[place].token.id == verdict.extra.id:
        placed = step.placed[place]
        return placed.final if placed.final is not None else placed.raw
    return None


def _hover(node: DraftNode, judged: Judged | None) -> str:
    lines = [visible(node.token), judged.outcome if judged else "not judged yet"]
    if judged and judged.p is not None:
        lines.append(f"target p {judged.p:.3f}")
    lines.append(f"draft q {number(node.q, 3)}")
    if judged and judged.accept_probability is not None:
        met = f", met u = {judged.u:.3f}" if judged.u is not None else ""
        lines.append(f"accept probability {judged.accept_probability:.3f}{met}")
    if node.source:
        lines.append(safe(node.source))
    return "<br>".join(lines)

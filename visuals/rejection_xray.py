"""One guess under the microscope: why it was kept or refused, and where the token that replaced it came from.

Drawn at random: q is the draft's probability, p the target's, the guess is kept if a random number u is below the
acceptance probability, and a refused guess is replaced from the residual, what is left when the guesses refused so
far are taken out. Greedy: the guess must be the target's first choice, and no random number is needed.

Without a `node` it shows the guess at which the latest verdict ended: the refused one that the correction replaced,
or the deepest accepted one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines.events import Choice, DraftNode, Event, Judged, Token, Verdict
from visuals.canvas import SMALL, axis, drawing, hidden_axis, label, text_font
from visuals.palette import LIGHT, ROLES
from visuals.picture import Drawing, Row, picture
from visuals.reading import Step, has, steps
from visuals.spelling import quoted, visible

MOST_LEFT = 6
"""Bars of the residual."""
DRAWN_HEIGHT, GREEDY_HEIGHT = 396, 170


@dataclass(frozen=True, slots=True)
class Exposure:
    """What is known about one guess and its place."""

    node: DraftNode
    judged: Judged | None
    verdict: Verdict
    best: Token | None
    """The target's first choice here."""
    best_p: float | None
    left: tuple[Choice, ...]
    """Top of the residual behind a refused guess."""
    next: Token | None
    """The token that was drawn from `left`; None when another guess was tested first."""

    @property
    def tested(self) -> bool:
        return self.judged is not None and self.judged.outcome != "untested"

    @property
    def greedy(self) -> bool:
        """Whether it was judged without a random number."""
        return self.judged is not None and self.judged.u is None


def relevant(events: Sequence[Event]) -> bool:
    """Whether any guess was judged."""
    return has(events, Verdict)


def latest(events: Sequence[Event]) -> Step | None:
    """The last step whose draft was judged."""
    return next((step for step in reversed(steps(events)) if step.draft is not None and step.verdict is not None), None)


def tested(step: Step) -> list[int]:
    """Ids of the guesses that the verdict tested, in the order of the draft."""
    names = {node.id for node in step.draft.nodes[1:]} if step.draft else set()
    judged = step.verdict.nodes if step.verdict else ()
    return [node.id for node in judged if node.outcome != "untested" and node.id in names]


def ended_at(step: Step) -> int | None:
    """The guess at which the verdict ended."""
    assert step.draft is not None
    assert step.verdict is not None
    judged = {node.id: node for node in step.verdict.nodes}
    end = step.verdict.path[-1] if step.verdict.path else step.draft.nodes[0].id if step.draft.nodes else None
    parents = {node.id: node.parent for node in step.draft.nodes}
    known = tested(step)
    refused = [id for id in known if judged[id].outcome == "rejected" and parents[id] == end]
    if refused:
        # The last of them met the coin that decided; greedily all fail alike, and the first was the draft's favourite.
        return refused[-1] if judged[refused[-1]].u is not None else refused[0]
    return end if end in known else known[-1] if known else None


def expose(events: Sequence[Event], node: int | None = None) -> Exposure | None:
    """The guess called `node` of the latest judged draft, or the one at which its verdict ended."""
    step = latest(events)
    if step is None or step.draft is None or step.verdict is None:
        return None
    nodes = {one.id: one for one in step.draft.nodes[1:]}
    chosen = nodes.get(ended_at(step) if node is None else node)  # type: ignore[arg-type]
    if chosen is None:
        return None
    verdict = step.verdict
    judged = {one.id: one for one in verdict.nodes}
    siblings = [one for one in nodes.values() if one.parent == chosen.parent]
    kept = next((one for one in siblings if one.id in verdict.path), None)
    mine = judged.get(chosen.id)
    last = [one.id for one in siblings if one.id in judged and judged[one.id].outcome == "rejected"][-1:]
    corrected = kept is None and last == [chosen.id]
    left = mine.residual if mine is not None else ()
    if not left and corrected:
        left = verdict.residual
    known = mine.best if mine is not None else None
    best, best_p = (known.token, known.p) if known else _first_choice(step, judged, kept)
    return Exposure(
        node=chosen,
        judged=mine,
        verdict=verdict,
        best=best,
        best_p=best_p,
        left=tuple(choice for choice in left if choice.p > 0),
        next=verdict.extra if corrected else None,
    )


def _first_choice(
    step: Step, judged: dict[int, Judged], kept: DraftNode | None
) -> tuple[Token | None, float | None]:
    """What recordings without `Judged.best` tell of it, under greedy decoding."""
    if step.verdict is None or any(one.u is not None for one in judged.values()):
        return None, None
    if kept is not None:
        return kept.token, judged[kept.id].p if kept.id in judged else None
    extra = step.verdict.extra
    placed = step.placed[step.confirmed] if step.confirmed < len(step.placed) else None
    return extra, placed.raw if placed is not None and placed.token.id == extra.id else None


def table(events: Sequence[Event], node: int | None = None) -> list[Row]:
    """The probabilities of the shown guess, then the residual."""
    seen = expose(events, node)
    if seen is None or seen.judged is None:
        return []
    token, judged = seen.node.token, seen.judged
    rows = [
        _row("draft q", token, 1.0 if seen.node.q is None else seen.node.q),
        _row("target p", token, judged.p),
        _row("acceptance probability", token, judged.accept_probability),
        _row("random number u", token, judged.u),
        _row(judged.outcome, token, None),
    ]
    if seen.best is not None:
        rows.append(_row("target's first choice", seen.best, seen.best_p))
    drawn = seen.next.id if seen.next and seen.left else None
    rows += [_row("drawn" if one.token.id == drawn else "residual", one.token, one.p) for one in seen.left]
    return rows


def _row(quantity: str, token: Token, value: float | None) -> Row:
    return {"quantity": quantity, "id": token.id, "text": token.text, "hex": token.hex, "value": value}


def narrate(events: Sequence[Event], node: int | None = None) -> str:
    """What the draft said, what the model gave it, what the coin showed, and what came instead."""
    seen = expose(events, node)
    if seen is None:
        return "No guess has been judged yet."
    guess = quoted(seen.node.token)
    if seen.judged is None or not seen.tested:
        return f"The guess {guess} was never tested: one before it was refused, or another one took its place."
    judged = seen.judged
    if seen.greedy:
        return _greedy_sentences(seen, guess)
    q = 1.0 if seen.node.q is None else seen.node.q
    how = " (a table or a copy is always sure)" if seen.node.q is None else ""
    said = [f"The draft said {guess} with {_is('q', q)}{how}; the model gives it {_is('p', judged.p)}."]
    chance, u = judged.accept_probability, judged.u
    ratio = "p/q"
    if chance is not None and judged.p is not None and abs(chance - min(1.0, judged.p / q if q else 1.0)) > 5e-4:
        said.append("Guesses refused before it make that more: only what they left counts.")
        ratio = "the share"
    if chance is not None and u is not None:
        digits = 3 if f"{u:.3f}" != f"{chance:.3f}" else 6
        kept = judged.outcome == "accepted"
        said.append(
            f"The coin showed u = {u:.{digits}f} {'<' if kept else '≥'} {ratio} = {chance:.{digits}f},"
            f" so it was {judged.outcome}."
        )
    if judged.outcome == "rejected":
        said.append(
            f"The correction {quoted(seen.next)} was drawn from what is left."
            if seen.next
            else "The next guess was tested against what is left."
        )
    return " ".join(said)


def _greedy_sentences(seen: Exposure, guess: str) -> str:
    judged, best = seen.judged, seen.best
    assert judged is not None
    said = f"The draft said {guess}; the model gives it {_is('p', judged.p)}"
    if judged.outcome == "accepted":
        return f"{said}, its first choice, so it was accepted. Greedy decoding needs no coin."
    if best is None:
        return f"{said}, which is not its first choice, so it was rejected. Greedy decoding needs no coin."
    sure = f" with {_is('p', seen.best_p)}" if seen.best_p is not None else ""
    return (
        f"{said}, but its first choice is {quoted(best)}{sure}, so the guess was rejected."
        " Greedy decoding takes the first choice: no coin is needed."
    )


def _is(name: str, p: float | None) -> str:
    if p is None:
        return f"an unknown {name}"
    return f"{name} < 0.001" if 0 < p < 0.0005 else f"{name} = {p:.3f}"


@picture(
    "rejection-xray",
    title="Rejection X-ray",
    explains="Why one guess was kept or refused. Click a guess in the draft tree, or step through them with ‹ and ›.",
    empty="Here one guess of a speculative method is weighed: what the draft said, what the model says, and chance.",
    relevant=relevant,
    table=table,
    narrate=narrate,
    families=("speculative",),
    picks=True,
)
def draw(events: Sequence[Event], node: int | None = None) -> Drawing | None:
    """Bars of q and p, the coin, and the residual; under greedy decoding the guess beside the first choice."""
    seen, step = expose(events, node), latest(events)
    if seen is None or step is None or not seen.tested:
        return None
    return (_greedy(seen) if seen.greedy else _drawn(seen)) | {"picks": {"node": seen.node.id, "nodes": tested(step)}}


def _greedy(seen: Exposure) -> Drawing:
    judged, best = seen.judged, seen.best
    assert judged is not None
    bars = [(f"guess {visible(seen.node.token, 12)}", judged.p, judged.outcome)]
    if best is not None and best.id != seen.node.token.id:
        bars.append((f"first choice {visible(best, 12)}", seen.best_p, "bonus"))
    return drawing(
        _bars(bars, "x", "y"),
        height=GREEDY_HEIGHT,
        min_width=340,
        margin={"t": 30, "l": 12, "r": 12, "b": 40},
        xaxis=_unit("target p, after penalties", anchor="y"),
        yaxis=_names(bars, anchor="x"),
        annotations=[label(f"{_verdict(judged)} · greedy: no coin", 0, 1, yshift=6)],
    )


def _drawn(seen: Exposure) -> Drawing:
    judged = seen.judged
    assert judged is not None
    sure = "draft q, table or copy" if seen.node.q is None else "draft q"
    bars = [(sure, 1.0 if seen.node.q is None else seen.node.q, "untested"), ("model p", judged.p, "target")]
    left = list(seen.left[:MOST_LEFT])
    residual = [
        (visible(one.token, 14), one.p, "bonus" if seen.next and one.token.id == seen.next.id else "undecided")
        for one in left
    ]
    under = "nothing was replaced" if judged.outcome == "accepted" else "what was left is not recorded"
    if left:
        under = "what is left, and the correction drawn from it (+)" if seen.next else "what is left for the next guess"
        if seen.next and all(one.token.id != seen.next.id for one in left):
            under = f"what is left; drawn (+): {visible(seen.next, 14)}, beyond these"
    return drawing(
        [*_bars(bars, "x", "y"), *_coin(judged), *(_bars(residual, "x3", "y3") if residual else [])],
        height=DRAWN_HEIGHT,
        min_width=340,
        margin={"t": 30, "l": 12, "r": 12, "b": 30},
        xaxis=_unit("", anchor="y", showticklabels=False),
        yaxis=_names(bars, anchor="x", domain=[0.8, 1]),
        xaxis2=_unit("", anchor="y2"),
        yaxis2=hidden_axis(anchor="x2", domain=[0.56, 0.65], range=[-0.5, 0.5], fixedrange=True),
        xaxis3=_unit("", anchor="y3"),
        yaxis3=_names(residual, anchor="x3", domain=[0, 0.36]),
        annotations=[
            label(f"guess {visible(seen.node.token, 14)} · {_verdict(judged)}", 0, 1, yshift=6),
            label(_ratio(judged), 0, 0.655, yshift=14),
            label(under, 0, 0.37, yshift=4),
        ],
    )


def _verdict(judged: Judged) -> str:
    return f"{ROLES[judged.outcome].mark} {judged.outcome}"


def _ratio(judged: Judged) -> str:
    chance, u = judged.accept_probability, judged.u
    if chance is None or u is None:
        return "acceptance was not recorded"
    digits = 3 if f"{u:.3f}" != f"{chance:.3f}" else 6
    relation = "&lt;" if judged.outcome == "accepted" else "≥"
    return f"accepted if u is below {chance:.{digits}f}; u = {u:.{digits}f} {relation} {chance:.{digits}f}"


def _coin(judged: Judged) -> list[dict[str, Any]]:
    """The line from 0 to 1, green where the guess is accepted, and the mark where the random number fell."""
    chance, u = judged.accept_probability, judged.u
    if chance is None or u is None:
        return []
    chance = min(max(chance, 0.0), 1.0)
    zones = [
        {
            "type": "bar",
            "orientation": "h",
            "xaxis": "x2",
            "yaxis": "y2",
            "x": [width],
            "y": [0],
            "base": [start],
            "width": 0.8,
            "marker": {"color": ROLES[role].bg, "line": {"color": ROLES[role].ink, "width": 1}},
            "text": [f"{ROLES[role].mark} {role}"] if width > 0.22 else None,
            "textposition": "inside",
            "insidetextanchor": "middle",
            "textfont": {"size": SMALL, "color": ROLES[role].ink},
            "hovertemplate": f"{role} for u from {start:.3f} to {start + width:.3f}<extra></extra>",
        }
        for role, start, width in (("accepted", 0.0, chance), ("rejected", chance, 1 - chance))
    ]
    mark = {
        "type": "scatter",
        "mode": "lines+markers",
        "xaxis": "x2",
        "yaxis": "y2",
        "x": [u, u],
        "y": [-0.5, 0.5],
        "line": {"color": LIGHT["ink"], "width": 2.5},
        "marker": {"symbol": ["triangle-up", "triangle-down"], "size": 9, "color": LIGHT["ink"]},
        "cliponaxis": False,
        "hovertemplate": f"u = {u:.4f}<extra></extra>",
    }
    return [*zones, mark]


def _bars(bars: Sequence[tuple[str, float | None, str]], x: str, y: str) -> list[dict[str, Any]]:
    """Horizontal bars of probabilities, each with its number behind it; a role's mark stands before it."""
    numbers = [p or 0.0 for _, p, _ in bars]
    texts = ["–" if p is None else "&lt;.001" if 0 < p < 0.0005 else f"{p:.3f}" for _, p, _ in bars]
    marks = [ROLES[role].mark if role == "bonus" else "" for _, _, role in bars]
    return [
        {
            "type": "bar",
            "orientation": "h",
            "xaxis": x,
            "yaxis": y,
            "x": numbers,
            "y": list(range(len(bars))),
            "width": 0.7,
            "marker": {
                "color": [LIGHT["accent"] if role == "target" else ROLES[role].bg for _, _, role in bars],
                "line": {"color": [LIGHT["accent"] if r == "target" else ROLES[r].ink for _, _, r in bars], "width": 1},
            },
            "text": [f"{text} {mark}".strip() for text, mark in zip(texts, marks, strict=True)],
            "textposition": "outside",
            "textfont": text_font(size=SMALL),
            "cliponaxis": False,
            "customdata": [f"{name}: {text}" for (name, _, _), text in zip(bars, texts, strict=True)],
            "hovertemplate": "%{customdata}<extra></extra>",
        }
    ]


def _unit(title: str, **more: Any) -> dict[str, Any]:
    """From 0 to 1, with room for the number behind a full bar."""
    return axis(title, range=[0, 1.16], tickvals=[0, 0.25, 0.5, 0.75, 1], fixedrange=True, **more)


def _names(bars: Sequence[tuple[str, float | None, str]], **more: Any) -> dict[str, Any]:
    """An axis that names the bars, the first on top."""
    return axis(
        "",
        range=[max(len(bars), 1) - 0.5, -0.5],
        tickvals=list(range(len(bars))),
        ticktext=[name for name, _, _ in bars],
        tickfont=text_font(size=SMALL),
        showgrid=False,
        fixedrange=True,
        **more,
    )

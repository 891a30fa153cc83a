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

Bar = tuple[str, float | None, str]
"""Name, probability, role."""


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
    def q(self) -> float:
        """The draft's probability of it when it was tested; a table or a copy is sure of its guess."""
        if self.judged is not None and self.judged.q is not None:
            return self.judged.q
        return 1.0 if self.node.q is None else self.node.q

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


def _first_choice(step: Step, judged: dict[int, Judged], kept: DraftNode | None) -> tuple[Token | None, float | None]:
    """What recordings without `Judged.best` tell of it, under greedy decoding."""
    if step.verdict is None or any(one.u is not None for one in judged.values()):
        return None, None
    if kept is not None:
        return kept.token, judged[kept.id].p if kept.id in judged else None
    extra = step.verdict.extra
    placed = step.placed[step.confirmed] if step.confirmed < len(step.placed) else None
    return extra, placed.raw if extra is not None and placed is not None and placed.token.id == extra.id else None


def table(events: Sequence[Event], node: int | None = None) -> list[Row]:
    """The probabilities of the shown guess, then the residual."""
    seen = expose(events, node)
    if seen is None or seen.judged is None:
        return []
    token, judged = seen.node.token, seen.judged
    rows = [
        _row("draft q", token, seen.q),
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
    q = seen.q
    how = ", as any table or copy does" if seen.node.q is None else ""
    said = [f"The draft said {guess} with {_is('q', q)}{how}; the model gives it {_is('p', judged.p)}."]
    chance, u = judged.accept_probability, judged.u
    if chance is not None and u is not None:
        limit, shown = _apart(chance, u)
        ratio = f"p/q = {limit}"
        if judged.p is not None and abs(chance - min(1.0, judged.p / q if q else 1.0)) > 5e-4:
            said.append(f"The guesses refused before it are taken out, which makes its share {limit}.")
            ratio = limit
        relation = "<" if judged.outcome == "accepted" else "≥"
        said.append(f"The coin showed u = {shown} {relation} {ratio}, so it was {judged.outcome}.")
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


def _apart(chance: float, u: float) -> tuple[str, str]:
    """Both numbers, with as many digits as it takes to tell them apart."""
    digits = 3 if f"{u:.3f}" != f"{chance:.3f}" else 6
    return f"{chance:.{digits}f}", f"{u:.{digits}f}"


def _is(name: str, p: float | None) -> str:
    if p is None:
        return f"an unknown {name}"
    if p == 1:
        return f"{name} = 1"
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
    bars: list[Bar] = [(f"guess {visible(seen.node.token, 10)}", judged.p, judged.outcome)]
    if best is not None and best.id != seen.node.token.id:
        bars.append((f"first choice {visible(best, 10)}", seen.best_p, "bonus"))
    return drawing(
        _bars(bars, "x", "y"),
        height=GREEDY_HEIGHT,
        min_width=340,
        margin={"t": 30, "l": 12, "r": 12, "b": 40},
        xaxis=_unit("model p", anchor="y"),
        yaxis=_names(bars, anchor="x", range=[1.5, -0.5]),
        annotations=[label(f"{_verdict(judged)} · greedy: no coin", 0, 1, yshift=6)],
    )


def _drawn(seen: Exposure) -> Drawing:
    judged = seen.judged
    assert judged is not None
    bars: list[Bar] = [
        ("draft q", seen.q, "untested"),
        ("model p", judged.p, "target"),
    ]
    left = list(seen.left[:MOST_LEFT])
    residual: list[Bar] = [
        (visible(one.token, 10), one.p, "bonus" if seen.next and one.token.id == seen.next.id else "undecided")
        for one in left
    ]
    return drawing(
        [*_bars(bars, "x", "y", sure=seen.node.q is None), *_coin(judged), *_bars(residual, "x3", "y3")],
        height=DRAWN_HEIGHT,
        min_width=340,
        margin={"t": 30, "l": 12, "r": 12, "b": 30},
        barmode="overlay",
        xaxis=_unit("", anchor="y", showticklabels=False),
        yaxis=_names(bars, anchor="x", domain=[0.8, 1]),
        xaxis2=_unit("", anchor="y2"),
        yaxis2=hidden_axis(anchor="x2", domain=[0.56, 0.65], range=[-0.5, 0.5], fixedrange=True),
        xaxis3=_unit("", anchor="y3"),
        yaxis3=_names(residual, anchor="x3", domain=[0, 0.36]),
        annotations=[
            label(f"{_verdict(judged)} · guess {visible(seen.node.token, 14)}", 0, 1, yshift=6),
            label(_ratio(judged), 0, 0.655, yshift=4),
            label(_below(seen, left), 0, 0.37, yshift=4),
        ],
    )


def _below(seen: Exposure, left: Sequence[Choice]) -> str:
    """What the bars of the residual are."""
    if not left:
        accepted = seen.judged is not None and seen.judged.outcome == "accepted"
        return "nothing was replaced" if accepted else "what was left is not recorded"
    if seen.next is None:
        return "what is left for the next guess"
    if all(one.token.id != seen.next.id for one in left):
        return f"what is left; drawn: + {visible(seen.next, 10)}"
    return "what is left; + was drawn"


def _verdict(judged: Judged) -> str:
    return f"{ROLES[judged.outcome].mark} {judged.outcome}"


def _ratio(judged: Judged) -> str:
    if judged.accept_probability is None or judged.u is None:
        return "acceptance was not recorded"
    limit, shown = _apart(judged.accept_probability, judged.u)
    return f"u = {shown} {'&lt;' if judged.outcome == 'accepted' else '≥'} {limit}"


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


def _bars(bars: Sequence[Bar], x: str, y: str, sure: bool = False) -> list[dict[str, Any]]:
    """Horizontal bars of probabilities, each with its number behind it and the mark of a drawn token.

    `sure` says in the first bar that it is 1 by nature.
    """
    if not bars:
        return []
    texts = ["–" if p is None else "&lt;.001" if 0 < p < 0.0005 else f"{p:.3f}" for _, p, _ in bars]
    shown = [
        f"{text} {ROLES[role].mark if role == 'bonus' else ''}".strip()
        for text, (*_, role) in zip(texts, bars, strict=True)
    ]
    if sure:
        shown[0] = "1: a table or copy"
    colours = [(LIGHT["accent"],) * 2 if role == "target" else (ROLES[role].bg, ROLES[role].ink) for *_, role in bars]
    return [
        {
            "type": "bar",
            "orientation": "h",
            "xaxis": x,
            "yaxis": y,
            "x": [p or 0.0 for _, p, _ in bars],
            "y": list(range(len(bars))),
            "width": 0.7,
            "marker": {"color": [bg for bg, _ in colours], "line": {"color": [ink for _, ink in colours], "width": 1}},
            "text": shown,
            "textposition": ["inside" if sure and row == 0 else "outside" for row in range(len(bars))],
            "insidetextanchor": "start",
            "textfont": text_font(size=SMALL),
            "cliponaxis": False,
            "customdata": [f"{name}: {text}" for (name, _, _), text in zip(bars, texts, strict=True)],
            "hovertemplate": "%{customdata}<extra></extra>",
        }
    ]


def _unit(title: str, **more: Any) -> dict[str, Any]:
    """From 0 to 1, with room for the number behind a full bar."""
    return axis(title, range=[0, 1.16], tickvals=[0, 0.25, 0.5, 0.75, 1], fixedrange=True, **more)


def _names(bars: Sequence[Bar], **more: Any) -> dict[str, Any]:
    """An axis that names the bars, the first on top."""
    return axis(
        "",
        tickvals=list(range(len(bars))),
        ticktext=[name for name, _, _ in bars],
        showgrid=False,
        fixedrange=True,
        **{"range": [max(len(bars), 1) - 0.5, -0.5], "tickfont": text_font(size=SMALL)} | more,
    )

"""Where draft and target agree: the two distributions that one drawn guess was tested with, token by token.

For each token a bar up to p and one up to q. What both reach is the overlap: drawn there, a guess is accepted for
certain. Where q is higher, the excess is refused; where p is higher, the excess is the residual, which the replacement
is drawn from. Both excesses are equally large, which is why the output stays p: nothing is lost, only moved.
The overlap over the whole vocabulary, α = Σ min(p, q), is the chance that a guess is accepted at this place.

Without a `node` it shows the guess at which the latest verdict ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engines.events import Event, Judged, Token, Verdict, Weighed
from visuals.canvas import SMALL, axis, drawing, legend, text_font
from visuals.palette import LIGHT, ROLES
from visuals.picture import Drawing, Row, picture
from visuals.reading import Step
from visuals.rejection_xray import ended_at, latest
from visuals.spelling import quoted, visible


def relevant(events: Sequence[Event]) -> bool:
    """Whether a drawn guess was tested."""
    return any(isinstance(event, Verdict) and any(node.weighed for node in event.nodes) for event in events)


def drawn(step: Step) -> dict[int, Judged]:
    """The tested guesses that were drawn, by id."""
    if step.verdict is None or step.draft is None:
        return {}
    guessed = {node.id for node in step.draft.nodes}
    return {one.id: one for one in step.verdict.nodes if one.weighed and one.id in guessed}


def chosen(events: Sequence[Event], node: int | None) -> tuple[Step, Judged] | None:
    """The guess called `node` of the latest judged draft, or the one at which its verdict ended."""
    step = latest(events)
    if step is None:
        return None
    known = drawn(step)
    wanted = ended_at(step) if node is None else node
    judged = known.get(wanted) if wanted is not None else None
    if judged is None and node is None and known:
        judged = known[max(known)]
    return None if judged is None else (step, judged)


def token_of(step: Step, judged: Judged) -> Token:
    """The guessed token."""
    assert step.draft is not None
    return next(node.token for node in step.draft.nodes if node.id == judged.id)


def weighed(judged: Judged, guess: Token) -> list[Weighed]:
    """The most probable tokens under either distribution, and the guess, which need not be among them."""
    known = list(judged.weighed)
    if all(one.token.id != guess.id for one in known) and judged.q is not None:
        known.append(Weighed(guess, _p(judged, guess.id), judged.q))
    return known


def table(events: Sequence[Event], node: int | None = None) -> list[Row]:
    """One row per token."""
    found = chosen(events, node)
    if found is None:
        return []
    step, judged = found
    guess = token_of(step, judged)
    return [
        {
            "id": one.token.id,
            "text": one.token.text,
            "hex": one.token.hex,
            "guess": one.token.id == guess.id,
            "p": one.p,
            "q": one.q,
            "overlap": min(one.p, one.q),
            "refused": max(one.q - one.p, 0.0),
            "residual": max(one.p - one.q, 0.0),
        }
        for one in weighed(judged, guess)
    ]


def narrate(events: Sequence[Event], node: int | None = None) -> str:
    """The guess, its two probabilities, the overlap, and where the rest of p lies."""
    found = chosen(events, node)
    if found is None:
        return "No drawn guess has been tested yet."
    step, judged = found
    guess, overlap = token_of(step, judged), judged.overlap or 0.0
    said = [
        f"Draft and model agree on {overlap:.0%} of the probability here, so a guess has that chance.",
        f"This one was {quoted(guess)}, with q {_is(judged.q or 0)} and p {_is(_p(judged, guess.id))}; "
        f"it was {judged.outcome}.",
    ]
    missed = max(judged.weighed, key=lambda one: one.p - one.q)
    if missed.p - missed.q > 0.005:
        said.append(f"What the draft underrates most is {quoted(missed.token)}: p {_is(missed.p)}, q {_is(missed.q)}.")
    return " ".join(said)


def _is(p: float) -> str:
    """`= 0.123`; a probability that would be written as zero, but is none, is `< 0.001`."""
    return "< 0.001" if 0 < p < 0.0005 else f"= {p:.3f}"


def _p(judged: Judged, id: int) -> float:
    """The probability that the test used: p(guess) without what guesses refused before had claimed."""
    known = next((one.p for one in judged.weighed if one.token.id == id), None)
    return known if known is not None else (judged.accept_probability or 0.0) * (judged.q or 0.0)


@picture(
    "overlap",
    title="Draft against model",
    explains="What the draft (q) and the model (p) each want at one place. Where both reach, a guess is accepted.",
    empty="Shown where guesses are drawn by chance: two models then agree more or less. Set the temperature above 0.",
    relevant=relevant,
    table=table,
    narrate=narrate,
    families=("speculative",),
    picks=True,
)
def draw(events: Sequence[Event], node: int | None = None) -> Drawing | None:
    """Stacked bars per token: the overlap, and on top of it the excess of p or of q."""
    found = chosen(events, node)
    if found is None:
        return None
    step, judged = found
    guess = token_of(step, judged)
    shown = sorted(weighed(judged, guess), key=lambda one: -max(one.p, one.q))
    y = list(range(len(shown)))
    names = [("▸ " if one.token.id == guess.id else "") + visible(one.token, 12) for one in shown]
    # In Plotly's texts "<" begins a tag.
    hover = [f"{visible(one.token)}: p {_is(one.p)}, q {_is(one.q)}".replace("<", "&lt;") for one in shown]
    parts = (
        ("both: accepted ✓", "accepted", [min(one.p, one.q) for one in shown], ""),
        ("only the draft: refused ✕", "rejected", [max(one.q - one.p, 0.0) for one in shown], "/"),
        ("only the model: residual +", "bonus", [max(one.p - one.q, 0.0) for one in shown], "."),
    )
    bars = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "x": values,
            "y": y,
            "width": 0.62,
            "customdata": hover,
            "hovertemplate": f"%{{customdata}}<br>{name}: %{{x:.3f}}<extra></extra>",
            "marker": {
                "color": ROLES[role].bg,
                "line": {"color": ROLES[role].ink, "width": 1},
                "pattern": {"shape": shape, "fgcolor": ROLES[role].ink, "size": 6, "solidity": 0.25},
            },
        }
        for name, role, values, shape in parts
    ]
    overlap = judged.overlap or 0.0
    return drawing(
        [*bars, *_coin(judged, guess.id, shown)],
        height=136 + 30 * len(shown),
        min_width=340,
        margin={"t": 74, "l": 12, "r": 12, "b": 40},
        barmode="stack",
        showlegend=True,
        legend=legend(1.0),
        xaxis=axis(f"probability; α = Σ min(p, q) = {overlap:.2f}", range=[0, 1.02], dtick=0.25, fixedrange=True),
        yaxis=axis("", tickvals=y, ticktext=names, range=[len(shown) - 0.4, -0.6], showgrid=False, fixedrange=True)
        | {"tickfont": text_font(size=SMALL)},
    ) | {"picks": {"node": judged.id, "nodes": list(drawn(step))}}


def _coin(judged: Judged, guess: int, shown: Sequence[Any]) -> list[dict[str, Any]]:
    """The random number, scaled to the guess's bar: u · q falls within the overlap, or beyond it."""
    row = next((index for index, one in enumerate(shown) if one.token.id == guess), None)
    if row is None or judged.u is None or judged.q is None:
        return []
    at = judged.u * judged.q
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [at, at],
            "y": [row - 0.42, row + 0.42],
            "name": "coin, at u · q",
            "line": {"color": LIGHT["ink"], "width": 2.5},
            "hovertemplate": f"u · q = {judged.u:.3f} · {judged.q:.3f} = {at:.3f}<extra></extra>",
        }
    ]

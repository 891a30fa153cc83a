"""The measured point on the theory curve: what a method's guesses should bring, and what they brought here.

Fast Inference from Transformers via Speculative Decoding (arXiv 2211.17192) expects of γ guesses in a chain, each
accepted with probability α, and each costing c passes of the target to make,

    tokens per pass   E(α) = (1 - α^(γ+1)) / (1 - α)                  (equation 1)
    speed-up          E(α) / (γ·c + 1)                                 (theorem 3.8)

The 1 stands for a verifying pass that costs as much as a plain one. Here it is t(γ+1) / t(1), by the machine's measured
cost of a pass; and as a method may guess more in one pass than in another, or not at all, numerator and denominator are
means over the drafts that the run really made. With one γ and a flat t(q) both are the paper's formulas again.

α is the measured rate by place: of the places on the accepted path that had guesses, the share where one was accepted.
For a chain that is accepted / tested; of a tree γ is the depth and t is taken at its number of nodes.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines.events import Curve, Draft, Forward, Verdict
from visuals.canvas import NORMAL, SMALL, axis, drawing, label, legend
from visuals.palette import LIGHT
from visuals.picture import Drawing, Picture, Row
from visuals.reading import depths
from visuals.versus.lanes import Lane, course
from visuals.versus.speed import ratios

NONE_YET = "No contestant has made guesses that were checked, so there is no acceptance rate to put on a curve."
ALPHAS = tuple(step / 50 for step in range(51))


@dataclass(frozen=True, slots=True)
class Drafting:
    """What one contestant's drafts were like, over all rounds."""

    passes: tuple[tuple[int, int, int], ...]
    """(guesses in a row γ, tokens read q, how many such passes) of the target's passes."""
    alpha: float
    cost: float
    """Seconds to make one guess, in plain passes; 0 for a method without a draft model."""

    def tokens(self, alpha: float) -> float:
        """Expected tokens per target pass."""
        count = sum(times for _, _, times in self.passes)
        return sum(times * chain(alpha, gamma) for gamma, _, times in self.passes) / count

    def speed_up(self, alpha: float, curve: Curve, cheaper: float = 1.0) -> float:
        """Expected speed-up over one token per pass, if making a guess cost `cheaper` times less."""
        count = sum(times for _, _, times in self.passes)
        one = seconds(curve, 1)
        spent = sum(times * (gamma * self.cost / cheaper + seconds(curve, q) / one) for gamma, q, times in self.passes)
        return self.tokens(alpha) * count / spent


def chain(alpha: float, gamma: int) -> float:
    """E(α): expected tokens of a pass that checks γ guesses in a row."""
    return gamma + 1.0 if alpha == 1 else (1 - alpha ** (gamma + 1)) / (1 - alpha)


def seconds(curve: Curve, q: float) -> float:
    """t(q) by straight lines between the measured sizes; beyond the largest, in proportion."""
    xs, ys = curve.x, curve.y
    place = bisect_left(xs, q)
    if place == 0:
        return ys[0]
    if place == len(xs):
        return ys[-1] * q / xs[-1]
    share = (q - xs[place - 1]) / (xs[place] - xs[place - 1])
    return ys[place - 1] + share * (ys[place] - ys[place - 1])


def drafting(lane: Lane, curve: Curve) -> Drafting | None:
    """What a contestant's drafts were like; None when no guess of it was checked."""
    passes: Counter[tuple[int, int]] = Counter()
    hits = trials = guesses = 0
    spent = 0.0
    for events in lane.streams:
        draft: Draft | None = None
        gamma = 0
        for event in events:
            match event:
                case Draft():
                    draft, gamma = event, max(depths(event).values(), default=0)
                    guesses += gamma
                case Forward(lane="draft"):
                    spent += event.seconds
                case Forward(lane="target"):
                    passes[gamma, event.query] += 1
                    gamma = 0
                case Verdict() if draft is not None:
                    last = event.path[-1] if event.path else 0
                    refused = any(node.parent == last and node.id != last for node in draft.nodes)
                    hits += len(event.path)
                    trials += len(event.path) + refused
                    draft = None
    if not trials or not passes:
        return None
    cost = spent / guesses / seconds(curve, 1) if guesses and spent else 0.0
    return Drafting(tuple((gamma, q, times) for (gamma, q), times in sorted(passes.items())), hits / trials, cost)


def machine(lanes: Sequence[Lane], curve: Curve | None = None) -> Curve | None:
    """t(q): `curve`, or one that a run carries, or else the median of the passes that these runs made."""
    found = [event for lane in lanes for events in lane.streams for event in events if isinstance(event, Curve)]
    for known in (curve, *found):
        if known is not None and known.y_name == "seconds" and known.x and known.x[0] == 1 and all(known.y):
            return known
    seen: dict[int, list[float]] = {}
    for lane in lanes:
        for events in lane.streams:
            for event in events:
                if isinstance(event, Forward) and event.lane == "target" and event.batch == 1 and event.seconds > 0:
                    seen.setdefault(event.query, []).append(event.seconds)
    if 1 not in seen:
        return None
    x, y = zip(*((float(q), statistics.median(times)) for q, times in sorted(seen.items())), strict=True)
    return Curve(name="passes of these runs", x_name="new tokens", y_name="seconds", x=x, y=y)


@dataclass(frozen=True, slots=True)
class Measured:
    """One contestant beside its theory."""

    lane: Lane
    drafts: Drafting
    tokens: float
    """Tokens per target pass, measured."""
    speed_up: float | None
    """Over the baseline, measured; None without a round that both finished."""


def measured(lanes: Sequence[Lane], curve: Curve) -> list[Measured]:
    """Every contestant whose guesses were checked."""
    out = []
    for lane in lanes:
        drafts = drafting(lane, curve)
        points = [points[-1] for events in lane.streams if len(points := course(events)) > 1]
        target = sum(point.target for point in points)
        if drafts is None or not target:
            continue
        ratio = ratios(lane, lanes[0]) if lane.place else []
        tokens = sum(point.tokens for point in points) / target
        out.append(Measured(lane, drafts, tokens, statistics.median(ratio) if ratio else None))
    return out


def table(lanes: Sequence[Lane], curve: Curve | None = None) -> list[Row]:
    """One row per contestant with guesses: α, c, and what was expected and measured."""
    known = machine(lanes, curve)
    if known is None:
        return []
    return [
        {
            "contestant": f"{one.lane.letter} {one.lane.title}",
            "acceptance_by_place": one.drafts.alpha,
            "draft_cost": one.drafts.cost,
            "expected_tokens_per_pass": one.drafts.tokens(one.drafts.alpha),
            "measured_tokens_per_pass": one.tokens,
            "expected_speed_up": one.drafts.speed_up(one.drafts.alpha, known),
            "measured_speed_up": one.speed_up,
        }
        for one in measured(lanes, known)
    ]


def narrate(lanes: Sequence[Lane], curve: Curve | None = None) -> str:
    """Expectation and measurement of each contestant with guesses."""
    known = machine(lanes, curve)
    found = measured(lanes, known) if known else []
    if known is None or not found:
        return NONE_YET
    said = []
    for one in found:
        alpha, cost = one.drafts.alpha, one.drafts.cost
        made = (
            f"a guess costs {cost:.2f} passes to make" if cost else "there is no draft model, so a guess costs nothing"
        )
        reached = "" if one.speed_up is None else f", and {one.speed_up:.2f} times the speed of {lanes[0].letter}"
        said.append(
            f"{one.lane.letter}, {one.lane.title}: at {alpha:.0%} of the places a guess was accepted, and {made}. "
            f"Theory expects {one.drafts.tokens(alpha):.2f} tokens per pass and a speed-up of "
            f"{one.drafts.speed_up(alpha, known):.2f}; measured were {one.tokens:.2f} tokens per pass{reached}."
        )
    return " ".join(said)


def draw(lanes: Sequence[Lane], cheaper: float = 1.0, curve: Curve | None = None) -> Drawing | None:
    """Left tokens per pass, right speed-up, over α; lines are theory, symbols were measured.

    `cheaper` is how many times less a guess costs in the dotted line on the right.
    """
    known = machine(lanes, curve)
    found = measured(lanes, known) if known else []
    if known is None or not found:
        return None
    traces = [trace for one in found for trace in _traces(one, known, cheaper)]
    return drawing(
        traces,
        height=330,
        min_width=460,
        margin={"t": 52, "l": 36, "r": 14, "b": 62},
        showlegend=True,
        legend=legend(1.1),
        xaxis=axis("acceptance rate α", range=[-0.04, 1.04], domain=[0, 0.44], nticks=6),
        yaxis=axis("", rangemode="tozero", nticks=6),
        xaxis2=axis("acceptance rate α", range=[-0.04, 1.04], domain=[0.56, 1], anchor="y2", nticks=6),
        yaxis2=axis("", rangemode="tozero", anchor="x2", nticks=6),
        shapes=[_one()],
        annotations=[
            label("tokens per target pass", 0, 1, xshift=-20, yshift=4),
            label("speed-up", 0.56, 1, xshift=-20, yshift=4),
            label(_costs(found, cheaper), 0, 0, yshift=-60, font={"size": SMALL, "color": LIGHT["soft"]}),
        ],
    )


def _one() -> dict[str, Any]:
    """As fast as the baseline."""
    line = {"color": LIGHT["soft"], "width": 1, "dash": "dot"}
    return {"type": "line", "x0": 0, "x1": 1, "xref": "x2 domain", "y0": 1, "y1": 1, "yref": "y2", "line": line}


def _costs(found: Sequence[Measured], cheaper: float) -> str:
    with_draft = [one for one in found if one.drafts.cost]
    if not with_draft:
        return "c = 0: no draft model here, so guesses cost nothing to make."
    said = ", ".join(f"{one.lane.letter} c = {one.drafts.cost / cheaper:.3f}" for one in with_draft)
    how = f"{cheaper:g} times cheaper than measured" if cheaper != 1 else "as measured"
    return f"c, what making a guess costs in target passes: {said}, {how}"


def _traces(one: Measured, curve: Curve, cheaper: float) -> list[dict[str, Any]]:
    colour, dash, symbol = one.lane.look
    drafts, alpha = one.drafts, one.drafts.alpha
    line = {"type": "scatter", "mode": "lines", "x": list(ALPHAS), "line": {"color": colour, "width": 2, "dash": dash}}
    point: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers+text",
        "x": [round(alpha, 4)],
        "marker": {"symbol": symbol, "size": 11, "color": colour, "line": {"color": LIGHT["panel"], "width": 1.5}},
        "text": [one.lane.letter],
        # Points often lie close together: each contestant has its letter on a side of its own.
        "textposition": ("top left", "top left", "bottom right", "top right")[one.lane.place],
        "textfont": {"size": NORMAL, "color": LIGHT["ink"]},
        "showlegend": False,
        "cliponaxis": False,
    }
    right = {"xaxis": "x2", "yaxis": "y2"}
    # A curve belongs to its drafts as well as to its contestant: the name says whose.
    expected = {"hovertemplate": f"{one.lane.letter}, theory: %{{y:.2f}} at α = %{{x:.2f}}<extra></extra>"}
    was = {"hovertemplate": f"{one.lane.letter}, measured: %{{y:.2f}} at α = %{{x:.2f}}<extra></extra>"}
    traces = [
        line | expected | {"y": [round(drafts.tokens(a), 4) for a in ALPHAS], "name": one.lane.label},
        point | was | {"y": [round(one.tokens, 4)]},
        line | expected | right | {
            "y": [round(drafts.speed_up(a, curve, cheaper), 4) for a in ALPHAS],
            "name": one.lane.label,
            "showlegend": False,
        },
    ]  # fmt: skip
    if one.speed_up is not None:
        traces.append(point | was | right | {"y": [round(one.speed_up, 4)]})
    if cheaper != 1 and drafts.cost:
        hollow = point["marker"] | {"symbol": f"{symbol}-open", "color": colour}
        what = {"hovertemplate": f"{one.lane.letter}, expected with the cheaper draft: %{{y:.2f}}<extra></extra>"}
        expected_y = [round(drafts.speed_up(alpha, curve, cheaper), 4)]
        traces.append(
            point | what | right | {"y": expected_y, "marker": hollow, "text": [f"{one.lane.letter}, cheaper"]}
        )
    return traces


PICTURE = Picture(
    id="versus-theory",
    title="Theory and measurement",
    explains="Lines: what such guesses should bring, by how often they are accepted. Symbols: what was measured.",
    empty="Only methods that guess have a place here: add one to the comparison.",
    draw=draw,
    table=table,
    narrate=narrate,
    relevant=bool,
)

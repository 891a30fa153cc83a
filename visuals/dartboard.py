"""One choice by rejection: what was proposed, what was refused, and what weight the refusals gave.

The board on top is the model's distribution, cut into slices: as wide as its probability is each token that was
proposed, in the order of the proposals; what nobody asked about is the rest. Below it are the proposals, one a row,
and the sum that makes a weight of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines.events import Compiled, Event, Token, Trials
from visuals.canvas import NORMAL, SMALL, axis, drawing, label, number, short, text_font
from visuals.palette import LIGHT, ROLES
from visuals.picture import Drawing, Row, picture
from visuals.reading import has
from visuals.spelling import quoted, visible

MOST_ROWS = 12
ROW, BOARD, SUMS = 22, 46, 104
"""Heights in pixels: of a proposal, of the board with its axis, of the lines below."""


@dataclass(frozen=True, slots=True)
class Dart:
    """A proposal."""

    token: Token
    mass: float
    """The probability of its token in the whole distribution."""
    proposed: float
    """The probability that it was proposed with."""
    accepted: bool
    round: int
    again: bool
    """Whether its token had been proposed before."""

    @property
    def role(self) -> str:
        return "accepted" if self.accepted else "rejected"


def relevant(events: Sequence[Event]) -> bool:
    """Whether any token was tested on its own."""
    return has(events, Trials)


def latest(events: Sequence[Event]) -> Trials | None:
    """The last choice."""
    return next((event for event in reversed(events) if isinstance(event, Trials)), None)


def darts(trials: Trials) -> list[Dart]:
    """The proposals. Where refused tokens leave the urn, those after them were proposed from what was left."""
    replaced = trials.estimator == "wrs"
    out: list[Dart] = []
    masses: dict[int, float] = {}
    left, first = 1.0, 0.0
    for tried in trials.tried:
        among = 1.0 if replaced else left
        if trials.estimator == "recursive" and tried.round == 1:
            # The first accepted token stays out of the urn here.
            among = left - first
        again = tried.token.id in masses
        mass = masses.setdefault(tried.token.id, _unit(tried.p) * max(among, 0.0))
        out.append(Dart(tried.token, mass, _unit(tried.p), tried.accepted, tried.round, again))
        if tried.accepted:
            first = first or mass
        elif not again:
            left = max(left - mass, 0.0)
    return out


def counts(events: Sequence[Event]) -> tuple[int, int, int | None]:
    """Tokens tested so far, choices made so far, and the size of the vocabulary where it is known."""
    made = [event for event in events if isinstance(event, Trials)]
    sizes = (event.sizes.get("vocabulary") for event in events if isinstance(event, Compiled))
    vocabulary = next((int(size) for size in sizes if size and math.isfinite(size)), None)
    return sum(event.tests for event in made), len(made), vocabulary


def equation(trials: Trials) -> tuple[str, str]:
    """How the weight came about: the rule, and the same in figures."""
    thrown = darts(trials)
    weight, psi = number(trials.weight, 3), number(trials.refused_mass, 3)
    if trials.weight <= 0:
        return "nothing was accepted", "w = 0"
    match trials.estimator:
        case "lcd":
            return "the first accepted token", "its weight is not used"
        case "awrs":
            sides = [sum(not dart.accepted and dart.round == walk for dart in thrown) for walk in (0, 1)]
            n = " + ".join(map(str, sides))
            if len({dart.token.id for dart in thrown}) < trials.tests:
                n = f"{_round((1 - trials.refused_mass) / trials.weight - 1):,}"
            return "w = (1 - ψ₀) / (n₀ + n₁ + 1)", f"= (1 - {psi}) / ({n} + 1) = {weight}"
        case "recursive":
            if math.isclose(trials.weight, 1 - trials.refused_mass, rel_tol=1e-6, abs_tol=1e-9):
                return "the next one was accepted, or none was left:", f"w = 1 - ψ₀ = 1 - {psi} = {weight}"
            return "the next one was refused:", f"w = p(x) = {weight}"
        case "wrs" | "geometric":
            loops = max(sum(dart.accepted for dart in thrown) - 1, 1)
            n = f"{_round(loops / trials.weight - loops):,}"
            again = ", repetitions reckoned in" if trials.estimator == "geometric" else ""
            return f"w = L / (n + L), n all refusals{again}", f"= {loops} / ({n} + {loops}) = {weight}"
    return "the weight:", f"w = {weight}"


def table(events: Sequence[Event]) -> list[Row]:
    """One row per proposal of the whole run, of the first 64 of each choice."""
    return [
        {
            "position": trials.position,
            "particle": trials.particle,
            "estimator": trials.estimator,
            "walk": dart.round,
            "proposal": index,
            "id": dart.token.id,
            "text": dart.token.text,
            "hex": dart.token.hex,
            "p": dart.mass,
            "proposed_with": dart.proposed,
            "accepted": dart.accepted,
            "weight": trials.weight,
            "exact": trials.exact_mass,
            "tests": trials.tests,
        }
        for trials in events
        if isinstance(trials, Trials)
        for index, dart in enumerate(darts(trials))
    ]


def narrate(events: Sequence[Event]) -> str:
    """What was proposed and refused, the weight beside the truth, and how few tokens were asked about."""
    trials = latest(events)
    if trials is None:
        return "No token has been tested yet."
    thrown = darts(trials)
    refused = list(dict.fromkeys(quoted(dart.token) for dart in thrown if not dart.accepted))
    taken = next((dart for dart in thrown if dart.accepted), None)
    sentences = [f"At position {trials.position} {_counted(trials.tests, 'token')} {_were(trials.tests)} tested."]
    if refused:
        more = " and others" if trials.tests > len(refused) + 2 or len(refused) > 4 else ""
        sentences.append(
            f"Refused {_were(len(refused))} {', '.join(refused[:4])}{more}; those met before the first acceptance hold "
            f"{trials.refused_mass:.3f} of the probability."
        )
    if taken is not None:
        sentences.append(f"The first that was accepted is {quoted(taken.token)}.")
    exact = "" if trials.exact_mass is None else f"; really allowed is {trials.exact_mass:.3f}"
    sentences.append(f"The weight is {trials.weight:.3f}{exact}.")
    tests, choices, vocabulary = counts(events)
    if vocabulary:
        sentences.append(f"So far {tests:,} tokens were tested; masks would have decided {choices * vocabulary:,}.")
    return " ".join(sentences)


@picture(
    "dartboard",
    title="Dartboard",
    explains="Which tokens were proposed, which were refused, and how much must be allowed for it to go like this.",
    empty="One can test just what the model proposes, instead of every token. Run AWRS, and see how few that are.",
    relevant=relevant,
    table=table,
    narrate=narrate,
    families=("constrained",),
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """The board, the proposals, the sum."""
    trials = latest(events)
    if trials is None:
        return None
    thrown = darts(trials)
    rows = thrown[:MOST_ROWS]
    # Steady heights, so that the page does not jump with every token.
    lines = 4 if len(rows) <= 4 else 8 if len(rows) <= 8 else MOST_ROWS
    body = BOARD + lines * ROW
    height = body + SUMS + 26
    share = BOARD / body
    return drawing(
        [*_board(thrown), *_rows(rows)],
        height=height,
        min_width=330,
        margin={"t": 26, "b": SUMS},
        barmode="overlay",
        xaxis=axis(
            range=[0, 1], tickvals=[0, 0.5, 1], anchor="y", showgrid=False, fixedrange=True, tickfont={"size": SMALL}
        ),
        yaxis=axis(domain=[1 - share + 18 / body, 1], range=[-0.5, 0.5], visible=False, fixedrange=True),
        xaxis2=axis(domain=[0.42, 1], range=[0, 1.3], anchor="y2", visible=False, fixedrange=True),
        yaxis2=axis(
            domain=[0, 1 - share - 14 / body],
            range=[lines - 0.5, -0.5],
            tickvals=list(range(len(rows))),
            ticktext=[_name(index, dart) for index, dart in enumerate(rows)],
            tickfont=text_font(size=NORMAL),
            showgrid=False,
            fixedrange=True,
            anchor="x2",
        ),
        annotations=[
            label(_caption(trials), 0, 1, yshift=6),
            *(
                label(line, 0, 0, yanchor="top", yshift=-8 - 18 * index, font={"size": NORMAL, "color": LIGHT["ink"]})
                for index, line in enumerate(_sums(trials, events, len(thrown) - len(rows)))
            ),
        ],
    )


def _board(thrown: Sequence[Dart]) -> list[dict[str, Any]]:
    """Slices of the distribution from left to right."""
    traces = []
    begin = 0.0
    slices: dict[str, list[tuple[float, float, str]]] = {"accepted": [], "rejected": [], "untested": []}
    for dart in thrown:
        if not dart.again:
            slices[dart.role].append((begin, dart.mass, f"{visible(dart.token)} {number(dart.mass, 4)}<br>{dart.role}"))
            begin += dart.mass
    if begin < 1:
        slices["untested"].append((begin, 1 - begin, f"nobody asked: {number(1 - begin, 4)}"))
    for role, parts in slices.items():
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "base": [start for start, _, _ in parts],
                "x": [wide for _, wide, _ in parts],
                "y": [0] * len(parts),
                "width": 0.9,
                "marker": _fill(role),
                "customdata": [hover for _, _, hover in parts],
                "hovertemplate": "%{customdata}<extra></extra>",
            }
        )
    return traces


def _rows(rows: Sequence[Dart]) -> list[dict[str, Any]]:
    """A bar for every proposal: the chance that it was proposed with."""
    traces = []
    for role in ("accepted", "rejected"):
        places = [(index, dart) for index, dart in enumerate(rows) if dart.role == role]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "xaxis": "x2",
                "yaxis": "y2",
                "x": [dart.proposed for _, dart in places],
                "y": [index for index, _ in places],
                "width": 0.66,
                "marker": _fill(role),
                "text": [f"{ROLES[role].mark} {short(dart.proposed)}" for _, dart in places],
                "textposition": "outside",
                "textfont": text_font(ROLES[role].ink, size=SMALL),
                "cliponaxis": False,
                "customdata": [
                    f"{visible(dart.token)}<br>{role} in walk {dart.round + 1}<br>p {number(dart.mass, 4)}, "
                    f"of what was left {number(dart.proposed, 4)}"
                    for _, dart in places
                ],
                "hovertemplate": "%{customdata}<extra></extra>",
            }
        )
    return traces


def _fill(role: str) -> dict[str, Any]:
    fill: dict[str, Any] = {"color": ROLES[role].bg, "line": {"color": ROLES[role].ink, "width": 1}}
    if role == "rejected":
        fill["pattern"] = {"shape": "/", "fgcolor": ROLES[role].edge, "size": 6, "solidity": 0.2}
    return fill


def _name(index: int, dart: Dart) -> str:
    word = visible(dart.token, 11)
    return f"{index + 1} {word}" if dart.accepted else f"{index + 1} <s>{word}</s>"


def _caption(trials: Trials) -> str:
    particle = f" · particle {trials.particle + 1}" if trials.particle else ""
    known = ("lcd", "wrs", "awrs", "recursive", "geometric")
    rule = f" · {trials.estimator}" if trials.estimator in known else ""
    return f"position {trials.position}{particle}{rule} · the whole board is probability 1"


def _sums(trials: Trials, events: Sequence[Event], hidden: int) -> list[str]:
    """What is written below: the equation, the truth, the count."""
    thrown = darts(trials)
    before = next((index for index, dart in enumerate(thrown) if dart.accepted), len(thrown))
    after = sum(not dart.accepted for dart in thrown[before:])
    cut = "+" if trials.tests > len({dart.token.id for dart in thrown}) else ""
    exact = "a mask cannot tell" if trials.exact_mass is None else number(trials.exact_mass, 3)
    tests, choices, vocabulary = counts(events)
    beside = f" of {choices * vocabulary:,}" if vocabulary else ""
    more = f" · {hidden:,}{cut} more not drawn" if hidden > 0 else ""
    psi = number(trials.refused_mass, 3)
    return [
        f"n₀ = {before}{cut} · n₁ = {after}{cut if before < len(thrown) else ''} · ψ₀ = {psi}{more}",
        *equation(trials),
        f"really allowed: {exact}",
        f"tokens tested: {tests:,}{beside} that masks decide" if beside else f"tokens tested: {tests:,}",
    ]


def _unit(p: float) -> float:
    return min(max(p, 0.0), 1.0) if math.isfinite(p) else 0.0


def _round(value: float) -> int:
    return round(value) if math.isfinite(value) else 0


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"

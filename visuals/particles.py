"""The genealogy of weighted texts: who descends from whom, and who carries the weight.

Each column is one token further, each row a place in the population. A line is as thick as its text's share of the
weight. Where the population was resampled, several lines may leave one place, and none another: that text has no
heirs. A cross is a dead end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines.events import Event, Particle, Particles, Score, Token
from visuals.canvas import SMALL, Points, drawing, hidden_axis, label, number, text_font
from visuals.palette import LIGHT, ROLES
from visuals.picture import Drawing, Row, picture
from visuals.spelling import quoted, visible

PITCH = 78
"""Pixels from one column to the next."""
MOST_COLUMNS, MOST_NODES = 60, 1200
"""The latest columns are drawn, fewer of a large population."""
MOST_WIDE, TALLEST = 2000, 860
ROW, WORDED = 34, 20
"""Pixels from row to row, and from how many on there is room for words."""
WIDTHS = (1.0, 2.0, 3.5, 5.5, 8.0)
"""Of lines, in pixels, up to a share of the weight of 1; every width is a trace."""
ROLE = {"alive": "target", "finished": "accepted", "dead": "rejected"}


@dataclass(frozen=True, slots=True)
class Generation:
    """One step's population."""

    step: int
    particles: tuple[Particle, ...]
    shares: tuple[float, ...]
    """Each particle's part of the weight."""
    effective: float
    resampled: bool
    heirs: tuple[int, ...] | None
    """How many go on from each; None while the next step is not known."""


def relevant(events: Sequence[Event]) -> bool:
    """Whether there are weighted texts."""
    return any(isinstance(event, Particles) and event.particles for event in events)


def generations(events: Sequence[Event]) -> list[Generation]:
    """The populations in order, each of one size with those it descends from."""
    known = [event for event in events if isinstance(event, Particles) and event.particles]
    out = []
    for index, event in enumerate(known):
        following = known[index + 1].particles if index + 1 < len(known) else None
        heirs = None
        if following is not None:
            parents = [particle.parent for particle in following]
            heirs = tuple(parents.count(place) for place in range(len(event.particles)))
        out.append(
            Generation(event.step, event.particles, shares(event.particles), event.effective, event.resampled, heirs)
        )
    return out


def shares(particles: Sequence[Particle]) -> tuple[float, ...]:
    """The weights, divided by their sum; all 0 when there is none."""
    logs = [
        -math.inf if particle.log_weight is None or math.isnan(particle.log_weight) else particle.log_weight
        for particle in particles
    ]
    top = max(logs)
    if not math.isfinite(top):
        return tuple(0.0 for _ in logs)
    weights = [math.exp(value - top) for value in logs]
    return tuple(weight / sum(weights) for weight in weights)


def table(events: Sequence[Event]) -> list[Row]:
    """One row per particle and step."""
    return [
        {
            "step": generation.step,
            "particle": particle.id,
            "parent": particle.parent,
            "text": particle.text,
            "log_weight": particle.log_weight,
            "share": share,
            "state": particle.state,
            "effective": generation.effective,
            "resampled": generation.resampled,
            "heirs": None if generation.heirs is None else generation.heirs[place],
        }
        for generation in generations(events)
        for place, (particle, share) in enumerate(zip(generation.particles, generation.shares, strict=True))
    ]


def narrate(events: Sequence[Event]) -> str:
    """How many live, how even the weights are, how often the population was renewed, and what came of it."""
    known = generations(events)
    if not known:
        return "There are no weighted texts yet."
    last = known[-1]
    states = [particle.state for particle in last.particles]
    sentences = [
        f"After {_counted(len(known), 'step')}, of {_counted(len(states), 'particle')}: {states.count('alive')} alive, "
        f"{states.count('finished')} finished, {states.count('dead')} dead.",
        f"Their weights are worth {last.effective:.1f} equal ones.",
    ]
    if times := sum(generation.resampled for generation in known):
        lost = sum(generation.heirs.count(0) for generation in known if generation.resampled and generation.heirs)
        sentences.append(
            f"The population was resampled {_counted(times, 'time')}; {_counted(lost, 'text')} had no heirs."
        )
    posterior = sorted(_posterior(events), key=lambda score: -score.value)
    if posterior:
        best = quoted(Token(-1, posterior[0].text)) if posterior[0].text else "the empty text"
        sentences.append(
            f"The posterior holds {_counted(len(posterior), 'text')}; {best} has {posterior[0].value:.3f}."
        )
    return " ".join(sentences)


@picture(
    "particles",
    title="Particles",
    explains="Texts written side by side: the thicker a line, the more weight its text has; forks are copies.",
    empty="Several texts can compete: those that had to force the model are replaced. Run AWRS-SMC to see how.",
    relevant=relevant,
    table=table,
    narrate=narrate,
    families=("constrained",),
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """The latest generations as lines from left to right."""
    known = generations(events)
    if not known:
        return None
    count = max(len(generation.particles) for generation in known)
    shown = known[-min(MOST_COLUMNS, max(8, MOST_NODES // count)) :]
    pitch = max(12.0, min(ROW, TALLEST / count))
    height = max(150, round(pitch * count) + 30)
    natural_wide = PITCH * (len(shown) + 1)
    # At the right end is the latest step: a long run begins scrolled to it.
    window = min(natural_wide, MOST_WIDE)
    return drawing(
        [
            *_lines(shown, pitch),
            *_nodes(shown, pitch),
            *(_words(shown, pitch) if pitch >= WORDED else []),
            *_sizes(shown, pitch, count),
        ],
        height=height + 30,
        min_width=max(330, min(round(natural_wide * 0.9), MOST_WIDE)),
        margin={"t": 26, "b": 4},
        dragmode="pan",
        hoverdistance=40,
        xaxis=hidden_axis(range=[natural_wide - window - PITCH * 0.8, natural_wide - PITCH * 0.7]),
        yaxis=hidden_axis(range=[pitch * (count - 0.5) + 22, -pitch / 2 - 8], fixedrange=True),
        shapes=[
            {
                "type": "line",
                "x0": (column + 0.5) * PITCH,
                "x1": (column + 0.5) * PITCH,
                "y0": -pitch / 2,
                "y1": pitch * (count - 0.5),
                "line": {"color": LIGHT["soft"], "width": 1, "dash": "dot"},
                "layer": "below",
            }
            for column, generation in enumerate(shown)
            if generation.resampled
        ],
        annotations=[label(_caption(known[-1]), 0, 1, yshift=6)],
    )


def _lines(shown: Sequence[Generation], pitch: float) -> list[dict[str, Any]]:
    """Curves from parents to heirs, as thick as the heir's share of the weight."""
    curves: dict[tuple[str, float], tuple[Points, Points]] = {}
    for column, generation in enumerate(shown):
        for place, (particle, share) in enumerate(zip(generation.particles, generation.shares, strict=True)):
            if column and not 0 <= particle.parent < len(shown[column - 1].particles):
                continue
            y0 = (particle.parent if column else place) * pitch
            begin = (column - 1) * PITCH if column else -0.6 * PITCH
            role = "rejected" if particle.state == "dead" else "accent"
            xs, ys = curves.setdefault((role, _width(share)), ([], []))
            for part in range(7):
                t = part / 6
                xs.append(round(begin + (column * PITCH - begin) * t, 1))
                ys.append(round(y0 + (place * pitch - y0) * t * t * (3 - 2 * t), 1))
            xs.append(None)
            ys.append(None)
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": xs,
            "y": ys,
            "line": {
                "color": LIGHT["accent"] if role == "accent" else ROLES["rejected"].ink,
                "width": width,
                "dash": "solid" if role == "accent" else "dot",
            },
            "opacity": 0.55,
            "hoverinfo": "skip",
        }
        for (role, width), (xs, ys) in sorted(curves.items())
    ]


def _nodes(shown: Sequence[Generation], pitch: float) -> list[dict[str, Any]]:
    """A dot for every particle; a cross where it died; hollow where it has no heirs."""
    xs, ys, symbols, fills, edges, hovers = [], [], [], [], [], []
    for column, generation in enumerate(shown):
        for place, (particle, share) in enumerate(zip(generation.particles, generation.shares, strict=True)):
            heirless = generation.heirs is not None and generation.heirs[place] == 0
            role = ROLES[ROLE[particle.state]]
            xs.append(column * PITCH)
            ys.append(place * pitch)
            symbols.append({"dead": "x", "finished": "square"}.get(particle.state, "circle"))
            fills.append(LIGHT["panel"] if heirless and particle.state != "dead" else role.ink)
            edges.append(role.ink)
            hovers.append(_hover(generation, place, particle, share, heirless))
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "x": xs,
            "y": ys,
            "marker": {
                "size": 8 if pitch >= WORDED else 6,
                "symbol": symbols,
                "color": fills,
                "opacity": 1,
                "line": {"color": edges, "width": 1.2},
            },
            "customdata": hovers,
            "hovertemplate": "%{customdata}<extra></extra>",
        }
    ]


def _words(shown: Sequence[Generation], pitch: float) -> list[dict[str, Any]]:
    """What every particle wrote, above its line."""
    xs, ys, texts, colors = [], [], [], []
    for column, generation in enumerate(shown):
        for place, particle in enumerate(generation.particles):
            copied = particle.state == "finished" and column and _was(shown[column - 1], particle) == "finished"
            if copied:
                continue
            xs.append(column * PITCH)
            ys.append(place * pitch - 10)
            texts.append(_wrote(particle))
            colors.append(ROLES[ROLE[particle.state]].ink)
    return [
        {
            "type": "scatter",
            "mode": "text",
            "x": xs,
            "y": ys,
            "text": texts,
            "textposition": "middle center",
            "textfont": text_font(colors, size=SMALL),
            "hoverinfo": "skip",
        }
    ]


def _sizes(shown: Sequence[Generation], pitch: float, count: int) -> list[dict[str, Any]]:
    """The effective number under every column."""
    return [
        {
            "type": "scatter",
            "mode": "text",
            "x": [column * PITCH for column in range(len(shown))],
            "y": [pitch * (count - 0.5) + 8] * len(shown),
            "text": [
                f"{number(generation.effective, 1)}{' ↻' if generation.resampled else ''}" for generation in shown
            ],
            "textposition": "middle center",
            "textfont": text_font(LIGHT["soft"], size=SMALL),
            "hoverinfo": "skip",
        }
    ]


def _width(share: float) -> float:
    # Evenly over √share: a small share is seen beside a large one.
    return WIDTHS[min(len(WIDTHS) - 1, int(math.sqrt(max(share, 0.0)) * len(WIDTHS)))]


def _was(before: Generation, particle: Particle) -> str:
    inside = 0 <= particle.parent < len(before.particles)
    return before.particles[particle.parent].state if inside else ""


def _wrote(particle: Particle) -> str:
    if particle.state == "dead":
        return ROLES["rejected"].mark
    if not particle.text:
        return "end" if particle.state == "finished" else ""
    mark = f" {ROLES['accepted'].mark}" if particle.state == "finished" else ""
    return visible(Token(-1, particle.text), 8) + mark


def _hover(generation: Generation, place: int, particle: Particle, share: float, heirless: bool) -> str:
    lines = [
        f"step {generation.step}, particle {place + 1}, {particle.state}",
        _wrote(particle) or "nothing written",
        f"share of the weight {number(share, 4)}",
        f"ln weight {number(particle.log_weight, 2)}",
    ]
    if generation.heirs is not None and generation.resampled:
        lines.append("no heirs" if heirless else _counted(generation.heirs[place], "heir"))
    return "<br>".join(lines)


def _caption(last: Generation) -> str:
    return f"step {last.step} · below each step: effective number of {len(last.particles)}, ↻ resampled"


def _posterior(events: Sequence[Event]) -> list[Score]:
    return [
        event
        for event in events
        if isinstance(event, Score) and event.name == "posterior" and math.isfinite(event.value)
    ]


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"

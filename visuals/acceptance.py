"""What speculation gained: tokens per pass, and which guesses tend to be right.

A bar is one step: confirmed guesses, and on top of them the token that every pass yields anyway. The line is the mean
so far. The dashed line, for chains, is what theory expects of guesses that are each accepted with the measured
probability α, independently: (1 - α^(γ+1)) / (1 - α) tokens per pass ("Fast Inference from Transformers via Speculative
Decoding", arXiv 2211.17192, equation 1). Below: the acceptance rate (accepted / tested) by how far ahead the guess was,
and by where it came from.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from engines.events import Event, Verdict
from visuals.canvas import SMALL, axis, drawing, label, legend, text_font
from visuals.palette import LIGHT, ROLES
from visuals.picture import Drawing, Row, picture
from visuals.reading import Step, depths, has, steps
from visuals.spelling import safe

MOST_SOURCES, MOST_DEPTHS = 6, 12

Rates = dict[str, tuple[int, int]]
"""Accepted and tested guesses, by name."""


def relevant(events: Sequence[Event]) -> bool:
    """Whether any guess was judged."""
    return has(events, Verdict)


def source_group(source: str) -> str:
    """Where a guess came from, without the place: `copied from -31` and `copied from 7` are the same source."""
    place = r",?\s+ticket\s+-?\d.*$|\s*(from|at|@)?\s*-\d+.*$|\s+(from|at|@)\s*\d+.*$"
    return re.sub(place, "", source).strip() or "unnamed"


def passes(events: Sequence[Event]) -> list[Step]:
    """All passes that gave tokens, plain ones too; empty when no guess was ever judged."""
    return [step for step in steps(events) if step.gained] if relevant(events) else []


def running_mean(values: Sequence[int]) -> list[float]:
    """The mean of the first 1, 2, 3 … values."""
    return [round(total / count, 4) for count, total in enumerate(accumulate(values), 1)]


def rates(done: Sequence[Step]) -> tuple[dict[int, tuple[int, int]], Rates]:
    """(accepted, tested) by depth, and by source."""
    by_depth: dict[int, tuple[int, int]] = {}
    by_source: Rates = {}
    for step in done:
        if step.draft is None or step.verdict is None:
            continue
        deep = depths(step.draft)
        sources = {node.id: source_group(node.source) for node in step.draft.nodes}
        for node in step.verdict.nodes:
            if node.outcome == "untested" or node.id not in deep:
                continue
            hit = node.outcome == "accepted"
            accepted, tested = by_depth.get(deep[node.id], (0, 0))
            by_depth[deep[node.id]] = (accepted + hit, tested + 1)
            accepted, tested = by_source.get(sources[node.id], (0, 0))
            by_source[sources[node.id]] = (accepted + hit, tested + 1)
    return dict(sorted(by_depth.items())), dict(sorted(by_source.items(), key=lambda item: -item[1][1]))


def expected(done: Sequence[Step]) -> float | None:
    """Tokens per pass that theory expects with the measured acceptance rate; None unless all guesses were chains, each
    of which one pass tests to its end."""
    by_depth, _ = rates(done)
    accepted, tested = (sum(counts) for counts in zip(*by_depth.values(), strict=True)) if by_depth else (0, 0)
    if any(step.draft and step.draft.template.endswith("-verify") for step in done):
        return None
    drafts = [step.draft.nodes if step.draft else () for step in done]
    if not tested or any(node.parent != node.id - 1 for nodes in drafts for node in nodes):
        return None
    alpha = accepted / tested
    lengths = [max(0, len(nodes) - 1) for nodes in drafts]
    tokens = (length + 1 if alpha == 1 else (1 - alpha ** (length + 1)) / (1 - alpha) for length in lengths)
    return sum(tokens) / len(done)


def table(events: Sequence[Event]) -> list[Row]:
    """One row per step."""
    done = passes(events)
    means = running_mean([step.gained for step in done])
    rows: list[Row] = []
    for index, (step, mean) in enumerate(zip(done, means, strict=True)):
        outcomes = [node.outcome for node in step.verdict.nodes] if step.verdict else []
        rows.append(
            {
                "step": index + 1,
                "plain": step.verdict is None,
                "drafted": len(outcomes),
                "accepted": outcomes.count("accepted"),
                "rejected": outcomes.count("rejected"),
                "untested": outcomes.count("untested"),
                "tokens_gained": step.gained,
                "running_mean": mean,
            }
        )
    return rows


def narrate(events: Sequence[Event]) -> str:
    """Tokens per step, the acceptance rate, and the best source."""
    done = passes(events)
    if not done:
        return "No guess has been judged yet."
    gained = [step.gained for step in done]
    outcomes = [node.outcome for step in done if step.verdict for node in step.verdict.nodes]
    accepted, rejected = outcomes.count("accepted"), outcomes.count("rejected")
    noun = "pass" if len(done) == 1 else "passes"
    sentences = [
        f"In {len(done)} {noun} the model gained {sum(gained)} tokens, {sum(gained) / len(done):.2f} per pass"
        f" (at least {min(gained)}, at most {max(gained)})."
    ]
    if accepted + rejected:
        rate = accepted / (accepted + rejected)
        sentences.append(
            f"{accepted} of {accepted + rejected} tested guesses were accepted ({rate:.0%});"
            f" {len(outcomes)} were drafted."
        )
    theory = expected(done)
    if theory is not None:
        sentences.append(f"Theory expects {theory:.2f} tokens per pass of guesses that are right that often.")
    _, by_source = rates(done)
    if len(by_source) > 1:
        name, (hits, tested) = max(by_source.items(), key=lambda item: item[1][0] / item[1][1])
        if hits:
            sentences.append(f"The best source is {name}: {hits} of {tested}.")
    return " ".join(sentences)


@picture(
    "acceptance",
    title="Acceptance trace",
    explains="Tokens gained per pass: accepted guesses and the one the pass always gives. Line: mean so far.",
    empty="How many guesses did each pass confirm? Plain decoding makes none and gains one token a pass.",
    relevant=relevant,
    table=table,
    narrate=narrate,
    families=("speculative",),
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """Bars per step with the running mean, and two small charts of rates."""
    done = passes(events)
    if not done:
        return None
    by_depth, by_source = rates(done)
    return drawing(
        [*_trace(done), _depth_bars(by_depth), *_source_bars(by_source), *_theory(expected(done), len(done))],
        height=454,
        min_width=340,
        margin={"t": 58, "l": 36, "r": 12, "b": 36},
        dragmode="zoom",
        barmode="stack",
        bargap=0.25,
        showlegend=True,
        legend=legend(1.02),
        xaxis=axis("step", anchor="y", tickformat="d", showgrid=False, range=[0.4, max(len(done), 8) + 0.6]),
        yaxis=axis("", domain=[0.55, 1], rangemode="tozero", tickformat="d")
        | ({"nticks": 6} if max(step.gained for step in done) > 6 else {"dtick": 1}),
        xaxis2=axis(
            "tokens ahead",
            domain=[0, 0.44],
            anchor="y2",
            dtick=1 if len(by_depth) <= 6 else 2,
            tick0=1,
            tickangle=0,
            showgrid=False,
            fixedrange=True,
        ),
        yaxis2=axis(
            "", domain=[0, 0.3], anchor="x2", range=[0, 1.18], tickvals=[0, 0.5, 1], tickformat=".0%", fixedrange=True
        ),
        xaxis3=axis(
            "", domain=[0.54, 1], anchor="y3", range=[0, 1.3], tickvals=[0, 0.5, 1], tickformat=".0%", fixedrange=True
        ),
        yaxis3=axis(
            "", domain=[0, 0.3], anchor="x3", range=[max(len(by_source), 4) - 0.5, -0.5], visible=False, fixedrange=True
        ),
        annotations=[
            label("rate by distance", 0, 0.34, xshift=-20),
            label("rate by source", 0.54, 0.34),
        ],
    )


def _trace(done: Sequence[Step]) -> list[dict[str, Any]]:
    x = list(range(1, len(done) + 1))
    width = 0.75 if len(done) <= 100 else 1.0
    accepted, extra = [step.accepted for step in done], [step.extra for step in done]
    means = running_mean([a + b for a, b in zip(accepted, extra, strict=True)])
    return [
        {
            "type": "bar",
            "name": "accepted ✓",
            "width": width,
            "x": x,
            "y": accepted,
            "marker": {"color": ROLES["accepted"].ink, "opacity": 0.85},
            "hovertemplate": "step %{x}: %{y} accepted<extra></extra>",
        },
        {
            "type": "bar",
            "name": "bonus or correction +",
            "width": width,
            "x": x,
            "y": extra,
            "marker": {"color": ROLES["bonus"].ink},
            "hovertemplate": "step %{x}: %{y} bonus or correction<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "lines",
            "x": x,
            "y": means,
            "line": {"color": LIGHT["panel"], "width": 5},
            "hoverinfo": "skip",
            "showlegend": False,
        },
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"mean {means[-1]:.2f}",
            "x": x,
            "y": means,
            "line": {"color": LIGHT["ink"], "width": 1.8},
            "hovertemplate": "step %{x}: mean so far %{y:.2f}<extra></extra>",
        },
    ]


def _theory(tokens: float | None, count: int) -> list[dict[str, Any]]:
    if tokens is None:
        return []
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"theory {tokens:.2f}",
            "x": [0.5, count + 0.5],
            "y": [tokens, tokens],
            "line": {"color": LIGHT["soft"], "width": 1.8, "dash": "dash"},
            "hovertemplate": f"theory expects {tokens:.2f}<extra></extra>",
        }
    ]


def _depth_bars(by_depth: dict[int, tuple[int, int]]) -> dict[str, Any]:
    shown = dict(list(by_depth.items())[:MOST_DEPTHS])
    return {
        "type": "bar",
        "xaxis": "x2",
        "yaxis": "y2",
        "x": list(shown),
        "y": [hits / tested for hits, tested in shown.values()],
        "customdata": [f"{hits} of {tested} tested" for hits, tested in shown.values()],
        "text": [f"{hits / tested:.0%}" for hits, tested in shown.values()] if len(shown) <= 5 else None,
        "textposition": "outside",
        "textfont": text_font(size=SMALL),
        "cliponaxis": False,
        "marker": {"color": ROLES["accepted"].bg, "line": {"color": ROLES["accepted"].ink, "width": 1}},
        "showlegend": False,
        "hovertemplate": "%{x} ahead: %{y:.0%}, %{customdata}<extra></extra>",
    }


def _source_bars(by_source: Rates) -> list[dict[str, Any]]:
    names = list(by_source)
    if len(names) > MOST_SOURCES:
        rest = [by_source[name] for name in names[MOST_SOURCES - 1 :]]
        by_source = {name: by_source[name] for name in names[: MOST_SOURCES - 1]}
        by_source[f"{len(rest)} others"] = (sum(hits for hits, _ in rest), sum(tested for _, tested in rest))
    shares = [hits / tested for hits, tested in by_source.values()]
    counts = [f"{hits} of {tested}" for hits, tested in by_source.values()]
    rows = list(range(len(by_source)))
    return [
        {
            "type": "bar",
            "orientation": "h",
            "xaxis": "x3",
            "yaxis": "y3",
            "x": shares,
            "y": rows,
            # No outline, because the names begin inside the bars and go on beyond them.
            "marker": {"color": ROLES["accepted"].bg},
            "customdata": [f"{safe(name)[:60]}: {count}" for name, count in zip(by_source, counts, strict=True)],
            "hovertemplate": "%{customdata}, %{x:.0%}<extra></extra>",
            "showlegend": False,
        },
        {
            "type": "scatter",
            "mode": "text",
            "xaxis": "x3",
            "yaxis": "y3",
            "x": [0.02] * len(rows),
            "y": rows,
            "text": [safe(name[:18]) for name in by_source],
            "textposition": "middle right",
            "textfont": {"size": SMALL, "color": LIGHT["ink"]},
            "hoverinfo": "skip",
            "showlegend": False,
        },
    ]

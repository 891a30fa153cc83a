"""Where a tree search went before the model was asked: how often, and how likely the table called each step.

Each column is one token further. A circle's area is the number of visits; the number on the line is the prior, the
step's share of its siblings' weights. Filled circles became guesses, and show what the model made of them.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx

from engines.events import Commit, Draft, Event, Score, Started, Token, Verdict
from visuals.canvas import SMALL, Points, drawing, hidden_axis, label, number, short, text_font
from visuals.draft_tree import SLOT, layout
from visuals.palette import LIGHT, ROLES
from visuals.picture import Drawing, Row, picture
from visuals.spelling import quoted, visible

PITCH = 168
"""Pixels from a circle to the next column's."""
LETTER = 7.3
"""Pixels that a letter takes, so that lines begin where the words end."""
WIDEST, NARROWEST = 26, 5
"""Diameters of a circle with all visits, and of the smallest."""
SIDE = 20
MOST_PLACES = 40
TALLEST, MOST_WIDE = 860, 2000
ROOT = 0
BEND = [(step / 8, (step / 8) ** 2 * (3 - step / 4)) for step in range(9)]
"""The curve from (0, 0) to (1, 1) that leaves and arrives level."""


@dataclass(frozen=True, slots=True)
class Place:
    """One place of the search; `parent` is `ROOT` for a first token."""

    id: int
    parent: int
    token: Token
    visits: float
    prior: float
    mean_reward: float
    puct: float
    position: int | None
    drafted: bool
    outcome: str
    """The verdict's word, `undecided` before it, empty for what was not guessed."""


@dataclass(frozen=True, slots=True)
class Search:
    """The latest search: its root token when known, and its places, parents first."""

    root: Token | None
    places: list[Place]

    @property
    def visits(self) -> int:
        """Walks through the root, as far as its children are shown."""
        return round(sum(place.visits for place in self.places if place.parent == ROOT))

    @property
    def next(self) -> list[Place]:
        """The first tokens, most visited first."""
        return sorted((place for place in self.places if place.parent == ROOT), key=lambda place: -place.visits)


def of_a_search(event: Event) -> bool:
    """Whether the event scores a place of a tree search."""
    return isinstance(event, Score) and event.token is not None and {"node", "parent", "visits"} <= event.parts.keys()


def relevant(events: Sequence[Event]) -> bool:
    """Whether a tree was searched."""
    return any(of_a_search(event) for event in events)


def latest(events: Sequence[Event]) -> Search | None:
    """The last search, with what became of its guesses."""
    end = next((index for index in range(len(events), 0, -1) if of_a_search(events[index - 1])), 0)
    begin = end
    while begin and of_a_search(events[begin - 1]):
        begin -= 1
    if begin == end:
        return None
    answer = next((event for event in events[end:] if isinstance(event, Draft | Commit)), None)
    draft = answer if isinstance(answer, Draft) and answer.nodes else None
    verdict = next((event for event in events[end:] if isinstance(event, Verdict)), None)
    outcomes = _outcomes(draft, verdict)
    places: list[Place] = []
    ways: dict[int, tuple[int, ...]] = {ROOT: ()}
    for score in events[begin:end]:
        assert isinstance(score, Score)
        assert score.token is not None
        numbers = {name: value for name, value in score.parts.items() if math.isfinite(value)}
        id, parent = int(numbers.get("node", ROOT)), int(numbers.get("parent", -1))
        if id in ways or parent not in ways or numbers.get("visits", 0) <= 0 or len(places) == MOST_PLACES:
            continue
        ways[id] = (*ways[parent], score.token.id)
        # A draft may hold fewer guesses than were chosen: at the token limit, and where guessing does not pay.
        drafted = score.chosen and (answer is None or ways[id] in outcomes)
        places.append(
            Place(
                id,
                parent,
                score.token,
                numbers["visits"],
                numbers.get("prior", math.nan),
                numbers.get("mean reward", math.nan),
                score.value,
                score.position,
                drafted,
                outcomes.get(ways[id], "undecided") if drafted else "",
            )
        )
    return Search(draft.nodes[0].token if draft else _last_token(events[:begin]), places) if places else None


def table(events: Sequence[Event]) -> list[Row]:
    """One row per place of the latest search."""
    found = latest(events)
    return [
        {
            "node": place.id,
            "parent": place.parent,
            "position": place.position,
            "id": place.token.id,
            "text": place.token.text,
            "hex": place.token.hex,
            "visits": round(place.visits),
            "prior": _known(place.prior),
            "mean_reward": _known(place.mean_reward),
            "puct": _known(place.puct),
            "drafted": place.drafted,
            "outcome": place.outcome or None,
        }
        for place in (found.places if found else ())
    ]


def narrate(events: Sequence[Event]) -> str:
    """How often the search walked, where it went most, and how many of its places became guesses."""
    found = latest(events)
    if found is None:
        return "No tree has been searched yet."
    places, firsts = found.places, found.next
    ahead = max(_columns(found).values())
    sentences = [
        f"The latest search walked {_counted(found.visits, 'time')}; {_counted(len(places), 'place')} of it, up to"
        f" {_counted(ahead, 'token')} ahead, {'is' if len(places) == 1 else 'are'} shown.",
    ]
    first = firsts[0]
    went = f"It went to {quoted(first.token)} {_counted(round(first.visits), 'time')}"
    if len(firsts) > 1:
        second = firsts[1]
        went += f", next to {quoted(second.token)} {_counted(round(second.visits), 'time')}"
    sentences.append(went + ".")
    drafted = sum(place.drafted for place in places)
    sentences.append(f"{_counted(drafted, 'place')} became {'a guess' if drafted == 1 else 'guesses'}.")
    if any(place.outcome == "accepted" for place in places):
        right = [quoted(place.token) for place in places if place.outcome == "accepted"]
        sentences.append(f"The model accepted {' '.join(right)}.")
    elif any(place.outcome == "rejected" for place in places):
        sentences.append("The model accepted none of them.")
    return " ".join(sentences)


@picture(
    "search-tree",
    title="Search tree",
    explains="The bigger a circle, the more often the search went there; numbers on the lines are the table's shares.",
    empty="Some methods search a small tree of guesses before they ask the model. Try ADED, and see where it looks.",
    relevant=relevant,
    table=table,
    narrate=narrate,
    families=("speculative",),
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """The latest search as a tree of circles, left to right."""
    found = latest(events)
    if found is None:
        return None
    tree = nx.DiGraph()
    tree.add_node(ROOT)
    tree.add_edges_from((place.parent, place.id) for place in found.places)
    spots, rows = layout(tree, ROOT, first=-1)
    columns = _columns(found)
    spots = {id: (columns[id] * PITCH + SIDE, y) for id, (_, y) in spots.items()}
    everything = max(found.visits, 1)
    natural_wide = (1 + max(columns.values())) * PITCH
    # In steps, so that the page does not jump with every search.
    height = min(max(-(-(rows * SLOT + 8) // 90) * 90, 180), TALLEST)
    return drawing(
        [*_lines(found, spots), *_circles(found, spots, everything), *_texts(found, spots)],
        height=height + 34,
        min_width=min(round(0.94 * natural_wide), MOST_WIDE),
        margin={"t": 30, "b": 4},
        dragmode="pan",
        hoverdistance=50,
        # A pixel is a pixel in both directions, however wide the panel is: words keep their room.
        xaxis=hidden_axis(range=[-6, natural_wide], scaleanchor="y", constrain="domain", constraintoward="left"),
        yaxis=hidden_axis(range=[height, 0], constrain="domain", constraintoward="top"),
        annotations=[label(_caption(found), 0, 1, yshift=6)],
    )


def _lines(found: Search, spots: dict[int, tuple[float, float]]) -> list[dict[str, Any]]:
    """Curves to every place: solid ones lead to guesses, dotted ones to what was only looked at; and the priors."""
    xs: dict[bool, Points] = {True: [], False: []}
    ys: dict[bool, Points] = {True: [], False: []}
    at: tuple[list[float], list[float], list[str]] = ([], [], [])
    by_id = {place.id: place for place in found.places}
    for place in found.places:
        (x0, y0), (x1, y1) = spots[place.parent], spots[place.id]
        x0 += WIDEST / 2 + 10 + LETTER * len(html.unescape(_written(by_id.get(place.parent), found.root)))
        xs[place.drafted] += [*(round(x0 + (x1 - x0) * share, 1) for share, _ in BEND), None]
        ys[place.drafted] += [*(round(y0 + (y1 - y0) * share, 1) for _, share in BEND), None]
        at[0].append(x1 - WIDEST / 2 - 2)
        at[1].append(y1 + 8 if y1 > y0 else y1 - 7)
        at[2].append(short(place.prior))
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": xs[drafted],
            "y": ys[drafted],
            "line": {"color": LIGHT["soft"], "width": 1.4, "dash": "solid" if drafted else "dot"},
            "hoverinfo": "skip",
        }
        for drafted in (True, False)
        if xs[drafted]
    ]
    priors = {
        "type": "scatter",
        "mode": "text",
        "x": at[0],
        "y": at[1],
        "text": at[2],
        "textposition": "middle left",
        "textfont": text_font(LIGHT["soft"], size=SMALL),
        "hoverinfo": "skip",
    }
    return [*traces, priors]


def _circles(found: Search, spots: dict[int, tuple[float, float]], everything: int) -> list[dict[str, Any]]:
    """The root and every place, area by visits; hollow where nothing was guessed."""
    sizes, fills, edges, hovers = [float(WIDEST)], [ROLES["target"].bg], [ROLES["target"].ink], [_root_hover(found)]
    for place in found.places:
        sizes.append(round(max(WIDEST * math.sqrt(min(place.visits / everything, 1)), NARROWEST), 1))
        fills.append(ROLES[place.outcome].bg if place.outcome else LIGHT["panel"])
        edges.append(ROLES[place.outcome].ink if place.outcome else LIGHT["soft"])
        hovers.append(_hover(place))
    ids = [ROOT, *(place.id for place in found.places)]
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "x": [spots[id][0] for id in ids],
            "y": [spots[id][1] for id in ids],
            "marker": {"size": sizes, "color": fills, "opacity": 1, "line": {"color": edges, "width": 1.4}},
            "customdata": hovers,
            "hovertemplate": "%{customdata}<extra></extra>",
        }
    ]


def _texts(found: Search, spots: dict[int, tuple[float, float]]) -> list[dict[str, Any]]:
    """Beside every circle: the token, its mark, and the visits."""
    colors = [ROLES["target"].ink]
    colors += [ROLES[place.outcome].ink if place.outcome else LIGHT["soft"] for place in found.places]
    ids = [ROOT, *(place.id for place in found.places)]
    return [
        {
            "type": "scatter",
            "mode": "text",
            "x": [spots[id][0] + WIDEST / 2 + 4 for id in ids],
            "y": [spots[id][1] for id in ids],
            "text": [_written(place, found.root) for place in (None, *found.places)],
            "textposition": "middle right",
            "textfont": text_font(colors),
            "hoverinfo": "skip",
        }
    ]


def _written(place: Place | None, root: Token | None) -> str:
    if place is None:
        return visible(root, 10) if root else "the text"
    mark = f" {ROLES[place.outcome].mark}" if place.outcome else ""
    return f"{visible(place.token, 7)}{mark} {round(place.visits)}"


def _outcomes(draft: Draft | None, verdict: Verdict | None) -> dict[tuple[int, ...], str]:
    """What became of every guess, by the tokens that lead to it."""
    judged = {node.id: node.outcome for node in verdict.nodes} if verdict else {}
    ways: dict[int, tuple[int, ...]] = {}
    out: dict[tuple[int, ...], str] = {}
    for node in draft.nodes if draft else ():
        if node.id in ways:
            continue
        ways[node.id] = (*ways[node.parent], node.token.id) if node.parent in ways else ()
        out[ways[node.id]] = judged.get(node.id, "untested" if verdict else "undecided")
    return out


def _columns(found: Search) -> dict[int, int]:
    """How many tokens ahead each place is; the root is 0."""
    out = {ROOT: 0}
    for place in found.places:
        out[place.id] = out[place.parent] + 1
    return out


def _last_token(events: Sequence[Event]) -> Token | None:
    for event in reversed(events):
        if isinstance(event, Commit) and event.tokens:
            return event.tokens[-1].token
        if isinstance(event, Started) and event.prompt_tokens:
            return event.prompt_tokens[-1]
    return None


def _caption(found: Search) -> str:
    first = found.places[0].position
    where = f"position {first} · " if first is not None else ""
    drafted = sum(place.drafted for place in found.places)
    return (
        f"{where}{_counted(found.visits, 'walk')} · {_counted(len(found.places), 'place')}, {drafted} of them guessed"
    )


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _root_hover(found: Search) -> str:
    return f"last token{': ' + visible(found.root) if found.root else ''}<br>{_counted(found.visits, 'visit')}"


def _hover(place: Place) -> str:
    lines = [
        visible(place.token),
        place.outcome or "looked at, not guessed",
        _counted(round(place.visits), "visit"),
        f"prior {number(place.prior, 3)}",
        f"mean reward {number(place.mean_reward, 3)}",
        f"PUCT value {number(place.puct, 3)}",
    ]
    return "<br>".join(lines)

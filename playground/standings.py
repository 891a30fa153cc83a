"""What the runs of a comparison say about each other: speed with its spread, work done, and where outputs part.

A speed-up is a ratio within one round, so that whatever slowed that round slowed both; shown are the median of the
rounds and their range. Only runs that came to their end count.

Outputs are compared with the baseline's, token by token. Whether a difference is a fault depends on what was promised:
two lossless methods at temperature 0 owe the same tokens, up to float ties; at a temperature above 0 the same
distribution, but not the same draws; everything else differs by purpose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from engines.events import Candidates, Event, Finished, Started, Token, Totals, committed
from engines.sampling import Sampling
from playground.difference import First, difference
from playground.rounds import Spread
from visuals.reading import candidates

TIE = 1e-4
"""Two logits nearer than this may change places when floats are added in another order."""

Relation = Literal["baseline", "same", "tie", "broken", "draws", "purpose", "unknown"]
"""Of an output to the baseline's: `tie` and `broken` are differences where there should be none, `draws` and `purpose`
those that are as they should be; `unknown` where one of them was stopped before anything could be said."""

PENALTIES = ("repetition_penalty", "frequency_penalty", "presence_penalty")


class Parting(msgspec.Struct, frozen=True):
    """The first difference between an output and the baseline's."""

    position: int
    ours: Token | None
    """None: this output had ended."""
    theirs: Token | None
    ours_p: float | None
    """The model's own probability of our token here; None where it was not recorded."""
    theirs_p: float | None
    gap: float | None
    """Between the logits of the two tokens, where they were the two best; None where they were not."""

    @property
    def tie(self) -> bool:
        """Whether the two best logits were nearly equal, and one run took the first, the other the second."""
        return self.gap is not None and self.gap < TIE


class Standing(msgspec.Struct, frozen=True):
    """One contestant's results."""

    totals: Totals | None
    """Of its first finished run: but for the times they are the same in every round."""
    rounds: int
    """Runs that came to their end."""
    tokens_per_second: Spread | None
    time_to_first_token: Spread | None
    """Seconds."""
    speed_up: Spread | None
    """Over the baseline; None for the baseline itself, and without a round that both finished."""
    relation: Relation
    shared: int
    """Tokens before the first difference."""
    parting: Parting | None


def standings(streams: Sequence[Sequence[Sequence[Event]]]) -> list[Standing]:
    """One standing per contestant, the baseline first; `streams` are events by contestant and round."""
    return [_standing(place, rounds, streams[0]) for place, rounds in enumerate(streams)]


def _standing(place: int, rounds: Sequence[Sequence[Event]], baseline: Sequence[Sequence[Event]]) -> Standing:
    totals = [_totals(events) for events in rounds]
    finished = [one for one in totals if one is not None]
    both = zip(totals, (_totals(events) for events in baseline), strict=False)
    ratios = [
        mine.tokens_per_second / theirs.tokens_per_second
        for mine, theirs in both
        if mine is not None and theirs is not None and mine.tokens_per_second and theirs.tokens_per_second
    ]
    relation, shared, parting = "baseline", 0, None
    if place:
        relation, shared, parting = related(rounds[0] if rounds else (), baseline[0] if baseline else ())
    return Standing(
        totals=finished[0] if finished else None,
        rounds=len(finished),
        tokens_per_second=Spread.of([one.tokens_per_second for one in finished]) if finished else None,
        time_to_first_token=Spread.of([one.time_to_first_token for one in finished]) if finished else None,
        speed_up=Spread.of(ratios) if place and ratios else None,
        relation=relation,  # type: ignore[arg-type]
        shared=shared,
        parting=parting,
    )


def related(ours: Sequence[Event], baseline: Sequence[Event]) -> tuple[Relation, int, Parting | None]:
    """How an output relates to the baseline's, how many tokens they share, and where they part."""
    if not ours or not baseline or not committed(ours) or not committed(baseline):
        return "unknown", 0, None
    found = difference(ours, baseline)
    if found.first is None:
        return ("same" if found.identical and all(found.complete) else "unknown"), found.shared, None
    parting = _parting(found.first, ours, baseline)
    mine, theirs = law(_header(ours)), law(_header(baseline))
    if mine is None or mine != theirs:
        return "purpose", found.shared, parting
    if dict(mine)["temperature"]:
        return "draws", found.shared, parting
    return ("tie" if parting.tie else "broken"), found.shared, parting


def law(header: Started) -> tuple[tuple[str, object], ...] | None:
    """The distribution that a run promises to draw from, as sorted settings; None when its method has its own.

    At temperature 0 filters change nothing, so only the penalties are part of it.
    """
    if not header.lossless and header.method != "sampling":
        return None
    neutral = {one.name: one.default for one in msgspec.structs.fields(Sampling)}
    temperature = header.params.get("temperature", 0.0)
    names = [name for name in neutral if name != "temperature"] if temperature else PENALTIES
    chosen = {name: header.params.get(name, neutral[name]) for name in names}
    shaped = {name: value for name, value in chosen.items() if value != neutral[name]}
    return tuple(sorted({"temperature": temperature, **shaped}.items()))


def _parting(first: First, ours: Sequence[Event], baseline: Sequence[Event]) -> Parting:
    mine, theirs = first.left, first.right
    gap = None
    if mine.token is not None and theirs.token is not None:
        wanted = candidates(baseline).get(first.position) or candidates(ours).get(first.position)
        gap = _gap(wanted, {mine.token.id, theirs.token.id})
    return Parting(
        position=first.position,
        ours=mine.token,
        theirs=theirs.token,
        ours_p=mine.p if mine.p is not None else theirs.p_other,
        theirs_p=theirs.p if theirs.p is not None else mine.p_other,
        gap=gap,
    )


def _gap(wanted: Candidates | None, tokens: set[int]) -> float | None:
    if wanted is None:
        return None
    best = (wanted.stages[-1].top if wanted.stages else wanted.raw)[:2]
    if {choice.token.id for choice in best} != tokens or min(choice.p for choice in best) <= 0:
        return None
    # The softmax divides both by the same sum, so their logits differ as the logarithms do.
    return abs(math.log(best[0].p / best[1].p))


def _totals(events: Sequence[Event]) -> Totals | None:
    return events[-1].totals if events and isinstance(events[-1], Finished) else None


def _header(events: Sequence[Event]) -> Started:
    assert isinstance(events[0], Started)
    return events[0]

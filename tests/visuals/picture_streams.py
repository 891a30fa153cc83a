"""Event streams made by hand, small enough to know every number in them, long ones to test speed, and a real one."""

from __future__ import annotations

import random
from functools import cache

from attribution_streams import ATTRIBUTION, hostile_inside
from constrained_streams import CONSTRAINED
from stream_parts import HOSTILE, WORDS, choices, finished, stamped, started, token

from engines.events import (
    Beam,
    Beams,
    Candidates,
    Choice,
    Commit,
    Compiled,
    Curve,
    Draft,
    DraftNode,
    Event,
    Forward,
    Growth,
    Judged,
    Mark,
    Mask,
    Match,
    Matrix,
    Note,
    Particle,
    Particles,
    Place,
    Placed,
    Score,
    Stage,
    Suggestion,
    Suggestions,
    Trials,
    Tried,
    Verdict,
)
from engines.models.twin import twin
from engines.runner import run


def greedy(length: int = 12, seed: int = 0) -> list[Event]:
    """Plain decoding: candidates, a pass and a commit for every token."""
    rng = random.Random(seed)
    events: list[Event] = [started(), Forward(lane="prompt", batch=1, query=3, cached=0, seconds=0.04)]
    for position in range(length):
        raw = choices(rng, token(rng.choice(WORDS)))
        events.append(Forward(lane="target", batch=1, query=1, cached=4 + position, seconds=0.03))
        events.append(Candidates(position=position, raw=raw, entropy=rng.uniform(0.05, 3.2)))
        placed = Placed(raw[0].token, "sampled", raw=raw[0].p, final=1.0, rank=0)
        events.append(Commit(position=position, step=position, tokens=(placed,)))
    return stamped([*events, finished()])


def sampling(length: int = 3, seed: int = 1) -> list[Event]:
    """Temperature, top-k 6 and top-p on ten candidates; the second choice is taken."""
    rng = random.Random(seed)
    events: list[Event] = [started("sampling")]
    for position in range(length):
        raw = choices(rng, token(rng.choice(WORDS)))
        cut, kept = raw[6:], raw[:6]
        total = sum(choice.p for choice in kept)
        after = tuple(Choice(choice.token, choice.p / total) for choice in kept)
        last = after[:3]
        mass = sum(choice.p for choice in last)
        final = tuple(Choice(choice.token, choice.p / mass) for choice in last)
        stages = (
            Stage("temperature", kept=49152, removed_mass=0.0, removed=(), top=raw),
            Stage("top-k", kept=6, removed_mass=1 - total, removed=cut, top=after),
            Stage("top-p", kept=3, removed_mass=1 - mass, removed=after[3:], top=final),
        )
        events.append(Forward(lane="target", batch=1, query=1, cached=4 + position, seconds=0.03))
        events.append(Candidates(position=position, raw=raw, entropy=1.2, stages=stages))
        placed = Placed(raw[1].token, "sampled", raw=raw[1].p, final=final[1].p, rank=1)
        events.append(Commit(position=position, step=position, tokens=(placed,)))
    return stamped([*events, finished()])


def photosynthesis() -> list[Event]:
    """One step of a draft tree, as on the mock of the page: 4 of 11 guesses are accepted, one bonus token."""
    spelled = (
        (0, -1, "glucose", None, "", None, None),
        (1, 0, ".", 0.6, "recycled, rank 1", "accepted", 0.62),
        (2, 0, " and", 0.25, "recycled, rank 2", "rejected", 0.21),
        (3, 0, " or", 0.05, "recycled, rank 3", "untested", None),
        (4, 1, " This", 0.5, "recycled, rank 1", "accepted", 0.55),
        (5, 1, " It", 0.2, "recycled, rank 2", "rejected", 0.20),
        (6, 1, "\n", 0.1, "recycled, rank 3", "untested", None),
        (7, 2, " oxygen", 0.5, "recycled, rank 1", "untested", None),
        (8, 4, " process", 0.7, "recycled, rank 1", "accepted", 0.71),
        (9, 4, " energy", 0.2, "recycled, rank 2", "rejected", 0.12),
        (10, 8, " is", 0.6, "recycled, rank 1", "accepted", 0.8),
        (11, 8, " occurs", 0.3, "recycled, rank 2", "rejected", 0.30),
    )
    nodes = tuple(DraftNode(id, parent, token(text), q, source) for id, parent, text, q, source, _, _ in spelled)
    judged = tuple(
        Judged(id, outcome, p, accept_probability=p, u=0.4 if p is not None else None)
        for id, _, _, _, _, outcome, p in spelled
        if outcome
    )
    path = (1, 4, 8, 10)
    names = {node.id: node.token for node in nodes}
    placed = [Placed(names[id], "drafted", raw=0.6, final=0.6, rank=0) for id in path]
    return stamped(
        [
            started("token-recycling", "speculative"),
            Forward(lane="prompt", batch=1, query=4, cached=0, seconds=0.1),
            Commit(position=0, step=0, tokens=(Placed(token("glucose"), "sampled", raw=0.9, final=1.0, rank=0),)),
            Draft(position=1, nodes=nodes),
            Forward(lane="target", batch=1, query=12, cached=4, seconds=0.06),
            Verdict(position=1, rule="greedy match", path=path, nodes=judged, extra=token(" by"), extra_origin="bonus"),
            Commit(position=1, step=1, tokens=(*placed, Placed(token(" by"), "bonus", raw=0.7, final=0.77, rank=0))),
        ]
    )


@cache
def chain() -> list[Event]:
    """Speculative sampling on the tiny twin: a real run with drawn guesses."""
    params = {"temperature": 1.0, "gamma": 3, "fallback": False}
    return list(run(twin(), "speculative-sampling", "addddcadd", params=params, raw=True, seed=3, max_new_tokens=30))


def recycling(steps: int = 17, seed: int = 2, candidates: bool = True) -> list[Event]:
    """A speculative run: 8 guesses a step on a small tree; how many are right is drawn."""
    rng = random.Random(seed)
    events: list[Event] = [
        started("token-recycling", "speculative"),
        Forward(lane="prompt", batch=1, query=4, cached=0, seconds=0.09),
    ]
    position = 0
    last = token(" ?")
    for step in range(steps):
        parents = (-1, 0, 0, 0, 1, 1, 4, 4, 6)
        sources = ("", *(f"recycled, rank {rank}" for rank in (0, 1, 2, 0, 1, 0, 1, 0)))
        nodes = tuple(
            DraftNode(id, parent, last if id == 0 else token(rng.choice(WORDS)), None, source)
            for id, (parent, source) in enumerate(zip(parents, sources, strict=True))
        )
        path = (1, 4, 6, 8)[: rng.choice((0, 1, 2, 3, 4, 4))]
        frontier = {0, *path}
        judged = tuple(
            Judged(id, "accepted", rng.uniform(0.4, 1), u=None)
            if id in path
            else Judged(id, "rejected", rng.uniform(0, 0.3))
            if parents[id] in frontier
            else Judged(id, "untested")
            for id in range(1, 9)
        )
        extra = token(rng.choice(WORDS))
        origin = "bonus" if len(path) == 4 else "correction"
        events += [
            Draft(position=position, nodes=nodes, template="small"),
            Forward(lane="target", batch=1, query=9, cached=4 + position, seconds=rng.uniform(0.05, 0.06)),
            Verdict(position=position, rule="greedy match", path=path, nodes=judged, extra=extra, extra_origin=origin),
        ]
        placed = [Placed(nodes[id].token, "drafted", raw=rng.uniform(0.4, 1), rank=0) for id in path]
        placed.append(Placed(extra, origin, raw=0.7, rank=0))
        if candidates:
            events += [
                Candidates(position=position + i, raw=choices(rng, item.token), entropy=rng.uniform(0.05, 3))
                for i, item in enumerate(placed)
            ]
        events.append(Commit(position=position, step=step, tokens=tuple(placed)))
        position += len(placed)
        last = extra
    return stamped([*events, finished()])


def lookup(steps: int = 5) -> list[Event]:
    """Prompt lookup: each step copies four tokens from the prompt; two, three, two … are accepted."""
    words = ("the cat sat on the mat and the dog lay on the rug while the cat slept " * 2).strip()
    header = started("prompt-lookup", "speculative", words)
    prompt = header.prompt_tokens
    events: list[Event] = [header, Forward(lane="prompt", batch=1, query=len(prompt), cached=0, seconds=0.1)]
    position = 0
    for step in range(steps):
        at = 3 + 2 * step
        source = (at - len(prompt), at - len(prompt) + 2)
        copied = (source[1], source[1] + 4)
        guesses = prompt[at + 2 : at + 6]
        accepted = 0 if step == 3 else 2 + step % 2
        nodes = [DraftNode(0, -1, prompt[at + 1], None, "")]
        nodes += [DraftNode(i + 1, i, guess, None, f"copied from {copied[0] + i}") for i, guess in enumerate(guesses)]
        judged = tuple(
            Judged(i + 1, "accepted", 0.9)
            if i < accepted
            else Judged(i + 1, "rejected" if i == accepted else "untested")
            for i in range(4)
        )
        origin = "correction"
        events += [
            Match(source=source, target=(position - 2, position), copied=copied),
            Draft(position=position, nodes=tuple(nodes)),
            Forward(lane="target", batch=1, query=5, cached=40, seconds=0.05),
            Verdict(
                position=position,
                rule="greedy match",
                path=tuple(range(1, accepted + 1)),
                nodes=judged,
                extra=token(" then"),
                extra_origin=origin,
            ),
        ]
        placed = [Placed(guess, "copied", raw=0.9) for guess in guesses[:accepted]] + [Placed(token(" then"), origin)]
        events.append(Commit(position=position, step=step, tokens=tuple(placed)))
        position += len(placed)
    return stamped([*events, finished()])


def beams(length: int = 6, width: int = 3, groups: int = 1, seed: int = 3, finish: bool = True) -> list[Event]:
    """Beam search: `2 * width` hypotheses a position and group, of which `width` live on; in the end one is chosen."""
    rng = random.Random(seed)
    events: list[Event] = [started("beam-search", "search")]
    live: dict[int, list[Beam]] = {group: [] for group in range(groups)}
    next_id = 0
    for position in range(length):
        events.append(Forward(lane="target", batch=width * groups, query=1, cached=4, seconds=0.05))
        considered: list[Beam] = []
        for group in range(groups):
            fresh: list[Beam] = []
            parents = live[group] or [Beam(-1, -1, token("x"), 0.0, 0.0, "live", group)]
            for i in range(2 * width):
                parent = parents[i % len(parents)]
                log_p = parent.log_probability - rng.uniform(0.1, 2.5)
                word = token(rng.choice(WORDS))
                fresh.append(Beam(next_id, parent.id, word, log_p, log_p / (position + 1), "live", group))
                next_id += 1
            fresh.sort(key=lambda beam: -beam.score)
            kept = fresh[:width]
            dropped = [
                Beam(b.id, b.parent, b.token, b.log_probability, b.score, "pruned", group) for b in fresh[width:]
            ]
            live[group] = kept
            considered += kept + dropped
        events.append(Beams(position=position, beams=tuple(considered)))
    if finish and length:
        best = max((beam for kept in live.values() for beam in kept), key=lambda beam: beam.score)
        chosen = Beam(best.id, best.parent, best.token, best.log_probability, best.score, "chosen", best.group)
        events.append(Beams(position=length - 1, beams=(chosen,)))
        known = {beam.id: beam for event in events if isinstance(event, Beams) for beam in event.beams}
        path: list[Placed] = []
        node: Beam | None = chosen
        while node is not None:
            path.append(Placed(node.token, "sampled"))
            node = known.get(node.parent)
        events.append(Commit(position=0, step=0, tokens=tuple(reversed(path))))
        events.append(finished())
    return stamped(events)


def best_of_n(samples: int = 4, length: int = 5, seed: int = 4) -> list[Event]:
    """Independent samples as lines of beams, each with its own candidates; the third sample wins."""
    rng = random.Random(seed)
    events: list[Event] = [started("best-of-n", "search")]
    words = [[token(rng.choice(WORDS)) for _ in range(length)] for _ in range(samples)]
    for position in range(length):
        row = []
        for sample in range(samples):
            raw = choices(rng, words[sample][position])
            events.append(Candidates(position=position, raw=raw, entropy=1.0 + sample, sequence=sample))
            id = position * samples + sample
            parent = id - samples if position else -1
            row.append(Beam(id, parent, words[sample][position], -1.0 * (position + 1), -1.0 - sample, "live", sample))
        events.append(Beams(position=position, beams=tuple(row)))
    rewards = (0.31, -0.2, 0.84, 0.55, 0.1, 0.2)
    for sample in range(samples):
        text = "".join(word.text for word in words[sample])
        events.append(Score(name="reward", value=rewards[sample], chosen=sample == 2, sequence=sample, text=text))
    last = (length - 1) * samples + 2
    events.append(
        Beams(position=length - 1, beams=(Beam(last, last - samples, words[2][-1], -5.0, 0.84, "chosen", 2),))
    )
    placed = tuple(Placed(word, "sampled") for word in words[2])
    events.append(Commit(position=0, step=0, tokens=placed))
    return stamped([*events, finished()])


def contrastive(length: int = 3) -> list[Event]:
    """Contrastive search: four candidates a position, the second wins because it repeats less."""
    rng = random.Random(5)
    events: list[Event] = [started("contrastive-search")]
    for position in range(length):
        raw = choices(rng, token(rng.choice(WORDS)), 4)
        events.append(Candidates(position=position, raw=raw, entropy=1.0))
        for index, (choice, penalty) in enumerate(zip(raw, (0.9, 0.2, 0.4, 0.5), strict=True)):
            parts = {"confidence": 0.4 * choice.p, "degeneration penalty": -0.6 * penalty}
            events.append(
                Score(
                    name="contrastive score",
                    value=sum(parts.values()),
                    parts=parts,
                    chosen=index == 1,
                    position=position,
                    token=choice.token,
                )
            )
        events.append(
            Commit(position=position, step=position, tokens=(Placed(raw[1].token, "sampled", raw=raw[1].p, rank=1),))
        )
    return stamped([*events, finished()])


def curve() -> list[Event]:
    """The measured cost of a pass on two cores."""
    x, y = (1, 4, 8, 16, 32, 64), (0.0319, 0.047, 0.057, 0.061, 0.076, 0.117)
    lean = (0.0244, 0.041, 0.053, 0.053, 0.068, 0.105)
    names = {"x_name": "new tokens", "y_name": "seconds"}
    return [Curve(name="transformers", x=x, y=y, **names), Curve(name="lean", x=x, y=lean, **names)]


def hostile() -> list[Event]:
    """Every kind of event, filled with token texts that try to break out."""
    events: list[Event] = [started(), Note(text="<script>")]
    for position, bad in enumerate(HOSTILE):
        others = tuple(Choice(entry, 0.5 / len(HOSTILE)) for entry in HOSTILE if entry is not bad)
        raw = (Choice(bad, 0.5), *others)
        stages = (Stage("<b>top-k</b>", kept=1, removed_mass=0.5, removed=others, top=(Choice(bad, 1.0),)),)
        events += [
            Candidates(position=position, raw=raw, entropy=1.0, stages=stages),
            Match(
                source=(position - 3, position - 1),
                target=(position - 2, position),
                copied=(position - 1, position + 2),
            ),
            Draft(
                position=position,
                nodes=(
                    DraftNode(0, -1, bad, None, ""),
                    DraftNode(1, 0, bad, 0.5, "<i>source</i> %{x}"),
                    DraftNode(2, 0, HOSTILE[position - 1], 0.5, "<i>source</i>"),
                ),
            ),
            Verdict(
                position=position,
                rule="<u>rule</u>",
                path=(1,),
                nodes=(Judged(1, "accepted", 0.5, 0.5, 0.1), Judged(2, "untested")),
                extra=bad,
                extra_origin="bonus",
                residual=raw,
            ),
            Beams(position=position, beams=(Beam(position, position - 1, bad, float("-inf"), float("-inf"), "live"),)),
            Score(name="<b>name</b>", value=float(position), parts={"<i>part</i>": 1.0}, position=position, token=bad),
            Mask(
                position=position,
                engine="<u>engine</u>",
                allowed=2,
                vocabulary=3,
                blocked_mass=0.5,
                wanted=others,
                permitted=raw,
                cells="09",
                end_allowed=False,
                state={"<i>state</i>": bad.text},
            ),
            Compiled(engine="<u>e</u>", subject=bad.text, status="refused", seconds=0.1, message=bad.text),
            Trials(
                position=position,
                particle=0,
                tried=(Tried(bad, 0.5, True),),
                tests=1,
                weight=0.5,
                estimator="<u>e</u>",
                refused_mass=0.0,
            ),
            Particles(
                step=position, particles=(Particle(0, 0, bad.text, 0.0, "alive"),), effective=1.0, resampled=False
            ),
            Growth(
                tree="<u>t</u>",
                sample=position,
                size=2,
                places=(Place(0, -1, None, None, 0.5), Place(1, 0, bad, 0.5, 0.5, 1, "<i>open</i>")),
            ),
            Suggestions(
                position=position,
                state="asked",
                monitor="<u>m</u>",
                trigger=bad.text,
                count=1,
                suggestions=(Suggestion(bad.text, 0.5, bad.text),),
            ),
            Matrix(
                name="<u>n</u>",
                rows=(bad.text,),
                columns=("<i>c</i>",),
                values=((-1.0,),),
                row_name="<i>r</i>",
                column_name="<i>c</i>",
                value_name="<i>v</i>",
                marks=(Mark(0, 0, "<i>best</i>"),),
            ),
            *hostile_inside(bad, HOSTILE[position - 1], position),
            Commit(position=position, step=position, tokens=(Placed(bad, "drafted", raw=0.5),)),
        ]
    events.append(Curve(name="<b>curve</b>", x_name="<x>", y_name="<y>", x=(1.0, 2.0), y=(0.0, float("nan"))))
    return stamped(events)


STREAMS = {
    "greedy": greedy,
    "sampling": sampling,
    "photosynthesis": photosynthesis,
    "recycling": recycling,
    "lookup": lookup,
    "beams": beams,
    "diverse": lambda: beams(groups=3, width=2, length=4),
    "best-of-n": best_of_n,
    "contrastive": contrastive,
    "chain": chain,
    "curve": curve,
    **CONSTRAINED,
    **ATTRIBUTION,
    "hostile": hostile,
}

"""Event streams of constrained runs, made by hand."""

from __future__ import annotations

import random

from stream_parts import WORDS, choices, finished, stamped, started, token

from engines.events import (
    Candidates,
    Choice,
    Commit,
    Compiled,
    Event,
    Forward,
    Growth,
    Mark,
    Mask,
    Matrix,
    Particle,
    Particles,
    Place,
    Placed,
    Score,
    Suggestion,
    Suggestions,
    Token,
    Trials,
    Tried,
)


def mask(rng: random.Random, position: int, word: Token, state: dict[str, str] | None = None) -> Mask:
    """A mask that leaves a few tokens, or nearly all."""
    permitted = choices(rng, word, 6)
    wanted = tuple(Choice(choice.token, choice.p / 2) for choice in choices(rng, token(rng.choice(WORDS)), 6))
    blocked = 0.5 if rng.random() < 0.5 else 0.01
    return Mask(
        position=position,
        engine="llguidance",
        allowed=rng.choice((1, 4, 13, 48784)),
        vocabulary=49152,
        blocked_mass=blocked,
        wanted=wanted,
        permitted=tuple(Choice(choice.token, choice.p * (1 - blocked)) for choice in permitted),
        cells="".join(rng.choice("0019") for _ in range(1024)),
        end_allowed=position % 4 == 3,
        state={"what may follow": "a digit, “,” or “}”"} if state is None else state,
        seconds=1e-4,
    )


def constrained(length: int = 12, seed: int = 5) -> list[Event]:
    """Masks of a plain constrained run."""
    rng = random.Random(seed)
    events: list[Event] = [started("grammar-mask", "constrained", "A person as JSON.")]
    events.append(Compiled(engine="llguidance", subject="json schema", status="ok", seconds=0.002))
    for position in range(length):
        word = token(rng.choice(WORDS))
        events += [
            mask(rng, position, word),
            Candidates(position=position, raw=choices(rng, word), entropy=1.0),
            Forward(lane="target", batch=1, query=1, cached=30 + position, seconds=0.025),
            Commit(position=position, step=position, tokens=(Placed(word, "sampled", raw=0.3),)),
        ]
    return stamped([*events, finished("done")])


def drawn_again(samples: int = 6, seed: int = 6) -> list[Event]:
    """Texts drawn one after another into a tree, one of them committed."""
    rng = random.Random(seed)
    events: list[Event] = [started("asap", "constrained", "A number.")]
    words = [token(word) for word in WORDS[:3]]
    for sample in range(samples):
        pick = [rng.randrange(3), rng.randrange(3)]
        value = 1 / (sample + 2)
        places = (
            Place(0, -1, None, None, value, sample + 1, "open"),
            Place(1 + pick[0], 0, words[pick[0]], 0.3, value, 1, "open"),
            Place(4 + 3 * pick[0] + pick[1], 1 + pick[0], words[pick[1]], 0.5, 1.0, 1, "finished"),
        )
        parts = {"log-probability": -1.9, "output": 1.0, "distance before": 0.5, "distance after": value, "P(L)": 0.2}
        events += [
            Growth(tree="trie", sample=sample, places=places, size=13),
            Score(name="root value c~", value=value, parts=parts, sequence=sample, text="of light"),
        ]
    events += [mask(rng, 0, words[0]), Commit(position=0, step=0, tokens=(Placed(words[0], "sampled", raw=0.3),))]
    return stamped([*events, finished("done")])


def particles(steps: int = 5, count: int = 4, seed: int = 7) -> list[Event]:
    """Weighted texts, each token found by trials."""
    rng = random.Random(seed)
    events: list[Event] = [started("awrs-smc", "constrained", "A number.")]
    for step in range(steps):
        for index in range(count):
            tried = tuple(Tried(token(rng.choice(WORDS)), 0.3, n == 2, int(n > 2)) for n in range(rng.choice((3, 5))))
            events.append(
                Trials(
                    position=step,
                    particle=index,
                    tried=tried,
                    tests=len(tried),
                    weight=0.4,
                    estimator="recursive",
                    refused_mass=0.6,
                    exact_mass=None if step % 2 else 0.5,
                )
            )
        population = tuple(
            Particle(index, rng.randrange(count), rng.choice(WORDS), None if index == 1 else -1.0 * step, "alive")
            for index in range(count)
        )
        events.append(Particles(step=step, particles=population, effective=2.5, resampled=step % 2 == 1))
    for position in range(steps):
        placed = Placed(token(rng.choice(WORDS)), "sampled", raw=0.3)
        events.append(Commit(position=position, step=position, tokens=(placed,)))
    return stamped([*events, finished("done")])


def monitored() -> list[Event]:
    """An analyser is asked at a dot, and its names are narrowed down."""
    rng = random.Random(8)
    names = ("width", "with_ip", "with_port")
    events: list[Event] = [started("monitor-guided", "constrained", "box = Box()\nbox.")]
    for position, (state, left) in enumerate((("asked", 3), ("narrowed", 2), ("finished", 1))):
        word = token(rng.choice(WORDS))
        offered = tuple(Suggestion(name, 0.2, name[position:]) for name in names[:left])
        events += [
            Suggestions(
                position=position, state=state, monitor="members", trigger="box.", suggestions=offered, count=left,
                seconds=0.03,
            ),
            mask(rng, position, word, {}),
            Commit(position=position, step=position, tokens=(Placed(word, "sampled", raw=0.3),)),
        ]  # fmt: skip
    return stamped([*events, finished("done")])


def spans(count: int = 8, longest: int = 4, seed: int = 9) -> list[Event]:
    """Scores of all pieces of a passage."""
    rng = random.Random(seed)
    values = tuple(
        tuple(-10 * rng.random() if start + length <= count else None for length in range(1, longest + 1))
        for start in range(count)
    )
    words = tuple(rng.choice(WORDS) for _ in range(count))
    table = Matrix(
        name="spans",
        rows=words,
        columns=tuple(str(length) for length in range(1, longest + 1)),
        values=values,
        row_name="start",
        column_name="tokens",
        value_name="log-probability",
        marks=(Mark(1, 1, "best"), Mark(2, 0, "greedy")),
    )
    commit = Commit(position=0, step=0, tokens=(Placed(token(WORDS[1]), "copied", raw=0.3),))
    return stamped([started("exact-extract", "constrained"), table, commit, finished("done")])


CONSTRAINED = {
    "constrained": constrained,
    "drawn again": drawn_again,
    "particles": particles,
    "monitored": monitored,
    "spans": spans,
}

"""Small streams of guesses, made by hand."""

from __future__ import annotations

from engines.events import (
    Choice,
    Commit,
    Draft,
    DraftNode,
    Event,
    Forward,
    Judged,
    Placed,
    Started,
    Token,
    Verdict,
    Weighed,
)

A, B = Token(0, "A"), Token(1, "B")


def started(method: str = "prompt-lookup", **params: bool | int) -> Started:
    return Started(
        model="m", weights="w", precision="float32", method=method, family="speculative", lossless=True,
        params=params, prompt="p", prompt_tokens=(A,), prompt_length=1, seed=0, max_new_tokens=9, raw_prompt=False,
        versions={}, machine="",
    )  # fmt: skip


def passed(lane: str, seconds: float, query: int = 1) -> Forward:
    return Forward(lane=lane, batch=1, query=query, cached=0, seconds=seconds)  # type: ignore[arg-type]


def commit(tokens: int, time: float = 0.0, token: Token = A) -> Commit:
    return Commit(position=0, step=0, tokens=(Placed(token, "sampled"),) * tokens, time=time)


def turn(guesses: int, accepted: int, time: float = 0.0) -> list[Event]:
    """A pass over a chain of guesses."""
    nodes = [DraftNode(0, -1, A, None, "committed")]
    nodes += [DraftNode(id, id - 1, A, None, "copied") for id in range(1, guesses + 1)]
    outcomes = ["accepted"] * accepted + ["rejected"] * (accepted < guesses)
    outcomes += ["untested"] * (guesses - len(outcomes))
    judged = tuple(Judged(id, outcome) for id, outcome in enumerate(outcomes, 1))  # type: ignore[arg-type]
    path = tuple(range(1, accepted + 1))
    return [
        Draft(position=0, nodes=tuple(nodes)),
        Verdict(position=0, rule="greedy", path=path, nodes=judged, extra=B, extra_origin="correction"),
        commit(accepted + 1, time),
    ]


def coin(u: float, p: float = 0.6, q: float = 0.9, guess: Token = A) -> list[Event]:
    """One drawn guess in a language of two tokens: its p and q, and the random number that it met."""
    chance = min(1.0, p / q)
    accepted = u < chance
    judged = Judged(
        1,
        "accepted" if accepted else "rejected",
        p=p,
        accept_probability=chance,
        u=u,
        residual=() if accepted else (Choice(B, 1.0),),
        q=q,
        overlap=min(p, q) + min(1 - p, 1 - q),
        weighed=(Weighed(guess, p, q), Weighed(B, 1 - p, 1 - q)),
    )
    nodes = (DraftNode(0, -1, A, None, "committed"), DraftNode(1, 0, guess, q, "draft"))
    return [
        Draft(position=0, nodes=nodes),
        Verdict(
            position=0,
            rule="with replacement",
            path=(1,) if accepted else (),
            nodes=(judged,),
            extra=B,
            extra_origin="bonus" if accepted else "correction",
        ),
        commit(1 + accepted),
    ]

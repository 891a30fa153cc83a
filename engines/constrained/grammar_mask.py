"""Grammar-constrained decoding: at every step, only tokens with which the text can still become valid.

The way nearly every serving system does it, described in "Generating Structured Outputs from Language Models:
Benchmark and Studies", Geng et al., arXiv 2501.10868; the masks are those of llguidance.

    1. p ← the model's distribution after the text so far
    2. A ← the tokens v such that text + v begins some word of the language; the end of text if the text is one
    3. set p to 0 outside A: what is lost is the blocked mass 1 - p(A)
    4. penalties, temperature and filters, as in sampling; draw one token, append it
    5. repeat until the end

Every output that ends is valid. But this is not the model given that its text is valid: renormalising step by step
prefers beginnings that look valid now and have little valid future (see ASAp and AWRS).

`forcing` takes tokens that the grammar leaves no choice about without asking the model: faster, and always in the
tokenizer's usual cut. It is off by default, for then the masks show all that is possible. `finish` closes what is open
when the token limit comes near, by a short valid ending instead of the model's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from engines.events import Event, Note
from engines.grammars.closing import shortest_completion
from engines.grammars.guidance import Whitespace
from engines.grammars.samples import PERSON
from engines.method import Paper, method
from engines.runner import Run
from engines.sampling import Constraining, GrammarText, Sampling


class Params(Sampling, frozen=True, kw_only=True, forbid_unknown_fields=True):
    constraint: Constraining = "json schema"
    grammar: GrammarText = PERSON
    temperature: Annotated[float, Meta(ge=0, le=5, description="0 takes the most probable allowed token")] = 0.0
    whitespace: Annotated[
        Whitespace, Meta(description="JSON: what may stand between its parts; any can go on for ever")
    ] = "one space"
    forcing: Annotated[bool, Meta(description="Take tokens that the grammar leaves no choice about without a pass")] = (
        False
    )
    finish: Annotated[bool, Meta(description="Near the token limit, close what is open with a short valid ending")] = (
        False
    )


SPARE = 2
"""Tokens left beyond the shortest ending when it is taken."""
ENDING_WITHIN = 64
"""The ending is looked for when so many tokens, or fewer, are left."""


@method(
    "grammar-mask",
    title="Grammar mask",
    family="constrained",
    paper=Paper("Generating Structured Outputs from Language Models", "Geng et al.", 2025, "2501.10868"),
    params=Params,
    idea="Before each choice, rule out every token with which the text could no longer become valid: by a JSON Schema, "
    "a regular expression, a grammar or a list of choices.",
    look_at="The mask: how few tokens are left at each step, and how much the model wanted what was blocked.",
    shines=("json-person", "city-tower"),
    loses=("poem-sea",),
    pictures=("mask", "distortion", "token-stream", "filters", "confidence", "budget"),
)
def grammar_mask(run: Run, params: Params) -> Iterator[Event]:
    sampler = run.sampler(params, forcing=params.forcing, whitespace=params.whitespace)
    while not run.finished:
        gate = sampler.gate
        if gate and params.finish and run.remaining <= ENDING_WITHIN:
            ending = shortest_completion(gate.follow(run.output), ENDING_WITHIN)
            if ending is not None and run.remaining <= len(ending) + SPARE:
                yield Note(
                    text=f"{run.remaining} tokens are left, and the text needs {len(ending)} more to be valid: they "
                    "are added now, without asking the model."
                )
                yield from run.commit(*(run.placed(token, "forced") for token in ending))
                continue
        if gate and params.forcing and (certain := gate.follow(run.output).forced()):
            yield from run.commit(*(run.placed(token, "forced") for token in certain))
            continue
        logits = run.next_logits()
        distribution = sampler.distribution(logits, run.prompt, run.output)
        yield run.candidates(logits, stages=distribution.stages)
        token = sampler.draw(distribution.probabilities, run.rng)
        sampler.learn(token, logits)
        yield from run.commit(run.placed(token, logits=logits, final=float(distribution.probabilities[token])))
    if sampler.gate and run.reason != "end of text" and not sampler.gate.follow(run.output).accepting:
        yield Note(
            text="The text was cut before it was valid. Allow more new tokens, or switch on finish, which closes it."
        )

"""Makes the runs that the page ships, in `assets/recorded/`, anew: `python -m benchmarks.record [NAME …]`.

Each shows its method's idea on a prompt that suits it; lessons (`assets/lessons/`) point at their moments. Record on a
quiet machine: their times are shown, and lessons compare them. Where a lesson shows guesses that do not pay, the
fallback to plain decoding is off, for it would hide them.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import engines
from engines.events import Event, Finished, to_json
from playground.setup import Params, Setup

ASSETS = Path(__file__).parents[1] / "assets"
PROMPTS: dict[str, str] = {one["id"]: one["prompt"] for one in json.loads((ASSETS / "prompts.json").read_text())}

ROUNDS = 3
"""How often each run is made: whatever else the machine does slows one of them down, seldom all."""

GUESSING: dict[str, Params] = {
    "prompt-lookup": {"guesses": 10, "fallback": False},
    "copyspec": {"block": 10, "fallback": False},
    "token-recycling": {"nodes": 12, "fallback": False},
    "speculative-sampling": {"gamma": 3, "fallback": False},
}
"""Methods that one lesson compares, with fixed numbers of guesses, so that no machine decides who guesses more."""
COMPARED: dict[str, Params] = {"greedy": {}} | GUESSING
"""The same beside plain decoding."""

CITY: Params = {"constraint": "choices", "grammar": "Paris\nParma\nLondon\nLisbon\n"}
"""Answers of which some begin alike."""

HUNDREDS: Params = {"constraint": "regex", "grammar": "[1-3]00|4", "samples": 40}
"""A language with one short text and three whose beginnings look better than they are."""

IOI: Params = {"task": "ioi", "pairs": 8}
"""Who is given the letter? Pairs in both orders, so that no name is favoured."""

WORDS: Params = {"gradient": False, "integrated": False, "relp_ah": True, "target": " Paris", "foil": " London"}
"""Why this city and not that one? By fewer methods than there are, so that they can be read side by side."""

RUNS: dict[str, Setup] = {
    "relp-ioi": Setup(method="relp", prompt="ioi", params=IOI),
    "atp-ioi": Setup(method="attribution-patching", prompt="ioi", params=IOI),
    "relp-ah-ioi": Setup(method="relp", prompt="ioi", params=IOI | {"ah": True, "edges": False, "faithfulness": False}),
    "why-capital": Setup(method="token-attribution", prompt="why-capital", params=WORDS, raw=True),
    "why-capital-lyon": Setup(
        method="token-attribution",
        prompt="why-capital",
        params=WORDS | {"foil": " Lyon", "reagent": False},
        raw=True,
    ),
    "mask-json": Setup(method="grammar-mask", prompt="json-person", max_new_tokens=60),
    "mask-forced": Setup(method="grammar-mask", prompt="json-person", params={"forcing": True}, max_new_tokens=60),
    "free-json": Setup(method="greedy", prompt="json-person", max_new_tokens=60),
    "awrs-smc": Setup(
        method="awrs-smc",
        prompt="number",
        params={"constraint": "regex", "grammar": HUNDREDS["grammar"], "n_particles": 24},
        max_new_tokens=8,
    ),
    "monitor": Setup(method="monitor-guided", prompt="code-member", max_new_tokens=16),
    "monitor-watch": Setup(
        method="monitor-guided", prompt="code-member", params={"trigger": "watch"}, max_new_tokens=16
    ),
    "extract": Setup(method="exact-extract", prompt="extract-lighthouse", max_new_tokens=16),
    "asap": Setup(method="asap", prompt="number", params=HUNDREDS, max_new_tokens=8),
    "asap-gcd": Setup(method="asap", prompt="number", params=HUNDREDS | {"variant": "gcd"}, max_new_tokens=8),
    "mask-city": Setup(method="grammar-mask", prompt="city-tower", params=CITY, max_new_tokens=12),
    "token-recycling": Setup(method="token-recycling", prompt="math-change", params=GUESSING["token-recycling"]),
    "token-recycling-wide": Setup(
        method="token-recycling", prompt="math-change", params={"nodes": 80, "fallback": False}
    ),
    "token-recycling-auto": Setup(method="token-recycling", prompt="math-change", max_new_tokens=24),
    "prompt-lookup": Setup(method="prompt-lookup", prompt="copy-list", params=GUESSING["prompt-lookup"]),
    "speculative-sampling": Setup(
        method="speculative-sampling",
        prompt="qa-bread",
        params=GUESSING["speculative-sampling"] | {"temperature": 1.0},
        max_new_tokens=64,
    ),
    "speculative-sampling-one": Setup(
        method="speculative-sampling",
        prompt="story-robot",
        params={"gamma": 1, "fallback": False, "temperature": 1.0},
        max_new_tokens=96,
    ),
    "beam-search": Setup(method="beam-search", prompt="qa-rain", params={"num_beams": 4}, max_new_tokens=40),
    "sampling": Setup(
        method="sampling", prompt="poem-sea", params={"temperature": 0.8, "top_p": 0.9}, max_new_tokens=64
    ),
    "sampling-hot": Setup(method="sampling", prompt="poem-sea", params={"temperature": 1.5}, max_new_tokens=40),
    "greedy": Setup(method="greedy", prompt="qa-capital", max_new_tokens=40),
    "greedy-poem": Setup(method="greedy", prompt="poem-sea", max_new_tokens=48),
    **{
        f"{kind}-{method}": Setup(method=method, prompt=prompt, params=params, max_new_tokens=64)
        for kind, prompt in (("copy", "copy-list"), ("prose", "story-robot"))
        for method, params in COMPARED.items()
        if (kind, method) != ("copy", "prompt-lookup")  # that is the one above
    },
    "prose-prompt-lookup-fallback": Setup(
        method="prompt-lookup", prompt="story-robot", params={"guesses": 10}, max_new_tokens=64
    ),
}
"""Set-ups by the name of the recording; `prompt` is the id of an example prompt."""


def main(names: Sequence[str] = ()) -> None:
    """Records the named runs, or every run of `RUNS`; of `ROUNDS` equal runs each, in turns, the quickest is kept."""
    model = engines.load()
    model.cost_curve()
    quickest: dict[str, list[Event]] = {}
    for _ in range(ROUNDS):
        for name in names or RUNS:
            asked = RUNS[name]
            events = list(
                engines.run(
                    model,
                    asked.method,
                    PROMPTS[asked.prompt],
                    params=asked.params,
                    max_new_tokens=asked.max_new_tokens,
                    raw=asked.raw,
                )
            )
            if name not in quickest or events[-1].time < quickest[name][-1].time:
                quickest[name] = events
    for name, events in quickest.items():
        lines = b"\n".join(to_json(event) for event in events) + b"\n"
        # No time stamp in the archive, so that the same run makes the same file.
        (ASSETS / "recorded" / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines, mtime=0))
        last = events[-1]
        assert isinstance(last, Finished)
        print(f"{name}: {last.totals.tokens} tokens, {last.totals.tokens_per_target_pass:.2f} per target pass")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Makes the runs that the page ships, in `assets/recorded/`, anew: `python -m benchmarks.record [NAME …]`.

Each shows its method's idea on a prompt that suits it; lessons (`assets/lessons/`) point at their steps. Record on a
quiet machine: their times are shown, and one lesson compares them.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import engines
from engines.events import Finished, to_json
from playground.setup import Setup

ASSETS = Path(__file__).parents[1] / "assets"
PROMPTS: dict[str, str] = {one["id"]: one["prompt"] for one in json.loads((ASSETS / "prompts.json").read_text())}

RUNS: dict[str, Setup] = {
    "token-recycling": Setup(method="token-recycling", prompt="math-change", params={"nodes": 12}),
    "token-recycling-wide": Setup(method="token-recycling", prompt="math-change", params={"nodes": 80}),
    "token-recycling-auto": Setup(method="token-recycling", prompt="math-change", max_new_tokens=24),
    "prompt-lookup": Setup(method="prompt-lookup", prompt="copy-list", params={"guesses": 10}),
    "beam-search": Setup(method="beam-search", prompt="qa-rain", params={"num_beams": 4}, max_new_tokens=40),
    "sampling": Setup(
        method="sampling", prompt="poem-sea", params={"temperature": 0.8, "top_p": 0.9}, max_new_tokens=64
    ),
    "sampling-hot": Setup(method="sampling", prompt="poem-sea", params={"temperature": 1.5}, max_new_tokens=40),
    "greedy": Setup(method="greedy", prompt="qa-capital", max_new_tokens=40),
    "greedy-poem": Setup(method="greedy", prompt="poem-sea", max_new_tokens=48),
}
"""Set-ups by the name of the recording; `prompt` is the id of an example prompt."""


def main(names: Sequence[str] = ()) -> None:
    """Records the named runs, or every run of `RUNS`."""
    model = engines.load()
    model.cost_curve()
    for name in names or RUNS:
        asked = RUNS[name]
        events = list(
            engines.run(
                model,
                asked.method,
                PROMPTS[asked.prompt],
                params=asked.params,
                max_new_tokens=asked.max_new_tokens,
            )
        )
        lines = b"\n".join(to_json(event) for event in events) + b"\n"
        # No time stamp in the archive, so that the same run makes the same file.
        (ASSETS / "recorded" / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines, mtime=0))
        last = events[-1]
        assert isinstance(last, Finished)
        print(f"{name}: {last.totals.tokens} tokens, {last.totals.tokens_per_target_pass:.2f} per target pass")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Makes the runs that the page ships, in `assets/recorded/`, anew: `python -m benchmarks.record`.

Each shows its method's idea on a prompt that suits it. Record on a quiet machine: their times are shown.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import engines
from engines.events import Finished, to_json

ASSETS = Path(__file__).parents[1] / "assets"

RUNS: dict[str, tuple[str, dict[str, Any], int]] = {
    "token-recycling": ("math-change", {"nodes": 12}, 96),
    "prompt-lookup": ("copy-list", {"guesses": 10}, 96),
    "beam-search": ("qa-rain", {"num_beams": 4}, 40),
    "sampling": ("poem-sea", {"temperature": 0.8, "top_p": 0.9}, 64),
}
"""Method: prompt, settings, tokens at most."""


def main() -> None:
    """Records every run of `RUNS`."""
    prompts = {one["id"]: one["prompt"] for one in json.loads((ASSETS / "prompts.json").read_text())}
    model = engines.load()
    model.cost_curve()
    for method, (prompt, settings, limit) in RUNS.items():
        events = list(engines.run(model, method, prompts[prompt], params=settings, max_new_tokens=limit))
        lines = b"\n".join(to_json(event) for event in events) + b"\n"
        # No time stamp in the archive, so that the same run makes the same file.
        (ASSETS / "recorded" / f"{method}.jsonl.gz").write_bytes(gzip.compress(lines, mtime=0))
        last = events[-1]
        assert isinstance(last, Finished)
        print(f"{method}: {last.totals.tokens} tokens, {last.totals.tokens_per_target_pass:.2f} per target pass")


if __name__ == "__main__":
    main()

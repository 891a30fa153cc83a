"""What a measurement leaves behind: a JSON file with all that is needed to judge it, and a table in the README."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import msgspec

from engines.models.causal import CausalModel
from engines.runner import machine

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent.parent / "README.md"

Result = TypeVar("Result", bound=msgspec.Struct)


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """Where, when and with what a measurement was made."""

    created: str
    machine: str
    processor: str
    versions: dict[str, str]
    model: str
    precision: str
    weights: str
    max_new_tokens: int
    rounds: int
    quick: bool

    @classmethod
    def of(cls, model: CausalModel, *, max_new_tokens: int, rounds: int, quick: bool) -> Setting:
        """This machine, now."""
        return cls(
            created=datetime.now(UTC).isoformat(timespec="minutes"),
            machine=machine(model.device.type),
            processor=processor(),
            versions={name: version(name) for name in ("torch", "transformers")}
            | {"python": platform.python_version()},
            model=model.title,
            precision=model.precision,
            weights=model.weights,
            max_new_tokens=max_new_tokens,
            rounds=rounds,
            quick=quick,
        )

    def sentence(self) -> str:
        """One line to put under a table."""
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        rounds = "one round" if self.rounds == 1 else f"{self.rounds} rounds"
        return (
            f"{self.model}, {self.precision}, at most {self.max_new_tokens} new tokens, {rounds}; "
            f"{self.processor}, {self.machine}; {versions}; {self.created[:10]}."
        )


def processor() -> str:
    """The name of the processor, or its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def save(result: msgspec.Struct, name: str, folder: Path = RESULTS) -> Path:
    """Writes `name`.json."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return path


def saved(kind: type[Result], name: str, folder: Path = RESULTS) -> Result | None:
    """The last result that was kept, if any."""
    path = folder / f"{name}.json"
    return msgspec.json.decode(path.read_bytes(), type=kind) if path.is_file() else None


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; the first column is for words, the others for numbers."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def fill(name: str, content: str, page: Path = README) -> None:
    """Puts `content` between the markers `<!-- name -->` and `<!-- /name -->` of a page. Raises if they are missing."""
    page.write_text(filled(page.read_text(encoding="utf-8"), name, content), encoding="utf-8")


def filled(text: str, name: str, content: str) -> str:
    """`text` with `content` between the markers of `name`."""
    opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = text.partition(opening)
    _, found_too, after = rest.partition(closing)
    if not (found and found_too):
        raise ValueError(f"the page has no place for {name}: {opening} … {closing}")
    return f"{before}{opening}\n\n{content.strip()}\n\n{closing}{after}"

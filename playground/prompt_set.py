"""A set of prompts: shipped with the program, pasted, or read from a JSONL or CSV file that somebody uploads.

    shipped("Translation"), pasted("One?\\nTwo?"), uploaded("mine.csv", content)

A file's rows have a column `prompt`, and may have `id` and `category`. What cannot be a set of prompts is refused
with one sentence that names the line.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from engines.errors import DecodingError, shown

MOST_PROMPTS = 500
LONGEST_PROMPT = 20_000
"""Characters."""
MOST_BYTES = 1_000_000
LONGEST_NAME = 80
SHIPPED = Path(__file__).parents[1] / "assets" / "prompts.json"


class NoPrompts(DecodingError):
    """This is not a set of prompts, or too large a one."""


class Asked(msgspec.Struct, frozen=True):
    """One prompt of a set. Ids are unique in it."""

    id: str
    prompt: str
    category: str = ""


class PromptSet(msgspec.Struct, frozen=True):
    """Prompts with a name for the whole."""

    title: str
    prompts: tuple[Asked, ...]

    @property
    def categories(self) -> list[str]:
        """The categories in order of appearance; empty when no prompt has one."""
        return list(dict.fromkeys(one.category for one in self.prompts if one.category))


def categories() -> list[str]:
    """The categories of the shipped prompts."""
    return list(dict.fromkeys(row["category"] for row in json.loads(SHIPPED.read_text(encoding="utf-8"))))


def shipped(category: str = "") -> PromptSet:
    """The example prompts, all or one category (upper and lower case alike). Raises `NoPrompts` for an unknown one."""
    rows = json.loads(SHIPPED.read_text(encoding="utf-8"))
    chosen = [row for row in rows if not category or row["category"].lower() == category.lower()]
    if not chosen:
        raise NoPrompts(
            f"No shipped prompt is of the category {shown(category)}. There are: {', '.join(categories())}."
        )
    title = f"Shipped prompts: {chosen[0]['category']}" if category else "Shipped prompts"
    return PromptSet(title, tuple(Asked(row["id"], row["prompt"], row["category"]) for row in chosen))


def pasted(text: str) -> PromptSet:
    """One prompt per line; or, when a line is blank, one per block between blank lines. Raises `NoPrompts`."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").strip().split("\n")
    blocks: list[tuple[int, str]] = []
    if any(not line.strip() for line in lines):
        begun = False
        for number, line in enumerate(lines, 1):
            if line.strip() and begun:
                blocks[-1] = (blocks[-1][0], f"{blocks[-1][1]}\n{line}")
            elif line.strip():
                blocks.append((number, line))
            begun = bool(line.strip())
    else:
        blocks = list(enumerate(lines, 1))
    return _checked("Pasted prompts", ((number, {"prompt": block.strip()}) for number, block in blocks))


def uploaded(name: str, content: bytes) -> PromptSet:
    """The prompts of a file; its name's ending says whether it is JSONL or CSV. Raises `NoPrompts`."""
    if len(content) > MOST_BYTES:
        raise NoPrompts(f"The file is larger than {MOST_BYTES / 1e6:g} MB.")
    kind = Path(name).suffix.lower()
    if kind not in (".jsonl", ".ndjson", ".csv"):
        raise NoPrompts(f"A set of prompts is a file that ends in .jsonl or .csv, not {shown(name)}.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise NoPrompts(f"Line {line} is not UTF-8 text. Save the file as UTF-8.") from None
    if "\0" in text:
        raise NoPrompts(
            f"Line {text[: text.index(chr(0))].count(chr(10)) + 1} holds a zero byte: this is no text file."
        )
    return _checked(Path(name).name[:LONGEST_NAME], _csv(text) if kind == ".csv" else _jsonl(text))


def read(argument: str, read_file: Any) -> PromptSet:
    """What the command line's `--prompts` names: `shipped`, `shipped:CATEGORY`, or a file. Raises `NoPrompts`.

    A file that ends in .txt is read like pasted text. `read_file` gives a file's bytes by its name.
    """
    word, _, category = argument.partition(":")
    if word == "shipped":
        return shipped(category)
    content = read_file(argument)
    if argument.lower().endswith(".txt"):
        try:
            return msgspec.structs.replace(
                pasted(content.decode("utf-8-sig")), title=Path(argument).name[:LONGEST_NAME]
            )
        except UnicodeDecodeError:
            raise NoPrompts(f"{shown(argument)} is not UTF-8 text.") from None
    return uploaded(argument, content)


def _jsonl(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except ValueError as error:
            raise NoPrompts(f"Line {number} is not JSON: {getattr(error, 'msg', error)}.") from None
        except RecursionError:
            raise NoPrompts(f"Line {number} is nested too deeply.") from None


def _csv(text: str) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        if "prompt" not in (reader.fieldnames or []):
            raise NoPrompts("Line 1 must name the columns, and one of them must be: prompt.")
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise NoPrompts(f"Line {reader.reader.line_num} cannot be read as CSV: {error}.") from None


def _checked(title: str, rows: Iterable[tuple[int, Any]]) -> PromptSet:
    prompts: list[Asked] = []
    seen: set[str] = set()
    for number, row in rows:
        if not isinstance(row, dict) or "prompt" not in row:
            raise NoPrompts(f'Line {number} has no "prompt".')
        for name in ("prompt", "id", "category"):
            value = row.get(name)
            if value is not None and not isinstance(value, str) and not (name == "id" and type(value) is int):
                raise NoPrompts(f"Line {number}: {name} must be text, not {_kind(value)}.")
        prompt = (row["prompt"] or "").encode(errors="replace").decode()
        if not prompt.strip():
            raise NoPrompts(f"Line {number}: the prompt is empty.")
        if len(prompt) > LONGEST_PROMPT:
            raise NoPrompts(
                f"Line {number}: the prompt has {len(prompt):,} characters; at most {LONGEST_PROMPT:,} fit."
            )
        if len(prompts) == MOST_PROMPTS:
            raise NoPrompts(f"There are more than {MOST_PROMPTS} prompts: line {number} is one too many.")
        id = _name(row.get("id")) or str(len(prompts) + 1)
        if id in seen:
            raise NoPrompts(f"Line {number}: the id {shown(id)} occurs twice.")
        seen.add(id)
        prompts.append(Asked(id, prompt, _name(row.get("category"))))
    if not prompts:
        raise NoPrompts("There is no prompt in it.")
    return PromptSet(title, tuple(prompts))


def _name(value: str | int | None) -> str:
    return " ".join(str(value if value is not None else "").encode(errors="replace").decode().split())[:LONGEST_NAME]


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)

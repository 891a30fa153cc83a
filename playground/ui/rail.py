"""The parts of the left rail: pickers, controls made from a method's `Params`, chips and calm messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from engines.method import NEED_WORDS, Method, Need, Setting
from playground.texts import Text
from playground.ui.live import ASSETS, Live, encode

FRONT_SETTINGS = 3
"""Settings shown before "more…"."""

FAMILIES = {"baselines": "Baselines", "speculative": "Speculative: guess, then check"}


class Prompt(msgspec.Struct, frozen=True):
    """An example prompt of `assets/prompts.json`."""

    id: str
    title: str
    category: str
    prompt: str


def load_prompts(file: Path = ASSETS / "prompts.json") -> dict[str, Prompt]:
    """The example prompts by id, in the order of the file."""
    return {prompt.id: prompt for prompt in msgspec.json.decode(file.read_bytes(), type=list[Prompt])}


class Picker(Live):
    """A searchable list in groups. Triggers `pick` with the id of the choice."""

    def __init__(self, value: str = "", **props: Any) -> None:
        super().__init__("picker", value, events=("pick",), **props)


class Chips(Live):
    """A few short buttons. Triggers `pick` with the id."""

    def __init__(self, value: str = "", **props: Any) -> None:
        super().__init__("chips", value, events=("pick",), **props)


class Card(Live):
    """What a method is."""

    def __init__(self, value: str = "", **props: Any) -> None:
        super().__init__("card", value, **props)


class Controls(Live):
    """Sliders, numbers, choices and switches. Its value holds the settings and what the user chose."""

    def __init__(self, value: str = "", **props: Any) -> None:
        super().__init__("controls", value, **props)


class Message(Live):
    """A sentence near Run: an error that helps, or how far something is."""

    def __init__(self, value: str = "", **props: Any) -> None:
        super().__init__("message", value, **props)


def message(text: str | Text = "", *, tone: str = "calm", fraction: float | None = None) -> str:
    """The value of a `Message`; an empty one hides it."""
    return encode({"text": text, "tone": tone, "fraction": fraction})


def selected(picker: str) -> str:
    """The id that a `Picker` is set to."""
    return str(json.loads(picker or "{}").get("selected", ""))


def method_picker(methods: Mapping[str, Method], chosen: str, has: Need | None = None, *, keep: bool = False) -> str:
    """All methods by family; those that the model cannot run are greyed out and say why. `keep` the page's choice."""
    groups: dict[str, list[dict[str, str]]] = {}
    for method in methods.values():
        groups.setdefault(method.family, []).append(
            {
                "id": method.id,
                "title": method.title,
                "note": "lossless" if method.lossless else "changes the output",
                "blocked": blocked(method, has),
            }
        )
    return encode(
        {
            "kind": "method",
            "keep": keep,
            "label": "Method",
            "selected": chosen,
            "groups": [
                {"title": FAMILIES.get(family, family.replace("-", " ").capitalize()), "options": options}
                for family, options in groups.items()
            ],
        }
    )


def blocked(method: Method, has: Need | None) -> str:
    """Why this model cannot run `method`; empty when it can, or when no model is loaded yet."""
    missing = method.needs & ~has if has is not None else Need.NOTHING
    return f"needs {' and '.join(NEED_WORDS[need] for need in missing)}" if missing else ""


def prompt_picker(prompts: Mapping[str, Prompt]) -> str:
    """All example prompts by category."""
    groups: dict[str, list[dict[str, str]]] = {}
    for prompt in prompts.values():
        groups.setdefault(prompt.category, []).append({"id": prompt.id, "title": prompt.title})
    return encode(
        {
            "kind": "prompt",
            "placeholder": "examples",
            "groups": [{"title": title, "options": options} for title, options in groups.items()],
        }
    )


def method_card(method: Method) -> str:
    """The value of a `Card`."""
    paper = method.paper
    return encode(
        {
            "idea": method.idea,
            "look_at": method.look_at,
            "lossless": method.lossless,
            "badge": "✓ lossless" if method.lossless else "≈ changes the output",
            "badge_title": "Decodes what plain decoding would have decoded."
            if method.lossless
            else "Its text can differ from what plain decoding would have written; that is its purpose.",
            "paper": str(paper) if paper else "",
            "link": f"https://arxiv.org/abs/{paper.arxiv}" if paper and paper.arxiv else "",
        }
    )


def prompt_chips(method: Method, prompts: Mapping[str, Prompt]) -> str:
    """Prompts on which the method shines, and where it loses."""

    def chips(ids: Iterable[str], verb: str) -> list[dict[str, str]]:
        known = [prompts[id] for id in ids if id in prompts]
        return [{"id": one.id, "label": f"{verb}: {one.title}", "title": one.prompt[:200]} for one in known[:1]]

    return encode(chips(method.shines, "shines") + chips(method.loses, "loses"))


RUN_SETTINGS: tuple[dict[str, Any], ...] = (
    {"name": "max_new_tokens", "label": "New tokens", "kind": "int", "low": 1, "high": 512, "default": 96,
     "help": "The run ends after this many tokens at the latest"},
    {"name": "seed", "label": "Seed", "kind": "int", "low": 0, "high": None, "default": 0, "more": True,
     "summary": True, "help": "The same seed gives the same run"},
    {"name": "raw", "label": "Raw prompt", "kind": "bool", "default": False, "more": True,
     "help": "Continue the text itself, without the model's chat template"},
    {"name": "stop", "label": "Stop strings", "kind": "str", "default": "", "more": True,
     "placeholder": "separate with |", "help": "The run ends when one of these is written"},
    {"name": "time_limit", "label": "Time limit", "kind": "float", "low": 0, "high": None, "default": 60, "more": True,
     "optional": True, "help": "Seconds of decoding; empty for none"},
)  # fmt: skip


def controls(method: Method, values: Mapping[str, Any] | None = None) -> str:
    """The value of a `Controls` for `method`; `values` keeps what was chosen before where it still applies."""
    own = [_control(setting, more=place >= FRONT_SETTINGS) for place, setting in enumerate(method.settings())]
    settings = [*own, *RUN_SETTINGS]
    kept = dict(values or {})
    return encode(
        {
            "method": method.id,
            "settings": [{"low": None, "high": None, **setting} for setting in settings],
            "values": {setting["name"]: kept.get(setting["name"], setting["default"]) for setting in settings},
        }
    )


def _control(setting: Setting, *, more: bool) -> dict[str, Any]:
    return {
        "name": setting.name,
        "label": setting.name.replace("_", " ").capitalize(),
        "help": setting.help,
        "kind": setting.kind.__name__,
        "low": setting.low,
        "high": setting.high,
        "choices": list(setting.choices),
        "optional": setting.optional,
        "default": setting.default,
        "more": more,
    }

"""The parts of the left rail: pickers, controls made from a method's `Params`, chips and calm messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from engines.method import NEED_WORDS, Method, Need, Setting
from playground.texts import Text, text
from playground.ui.constraint import gallery, read
from playground.ui.live import ASSETS, Live, encode

FRONT_SETTINGS = 3
"""Settings shown before "more…"."""
KIND, EDITOR = "constraint", "grammar"
"""The setting that says what kind of constraint there is, and the editor that its text asks for."""


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
    """Sliders, numbers, choices, switches, and an editor of grammars. Its value holds the settings and what the user
    chose; its server functions read a grammar that is being typed, and tell the gallery."""

    def __init__(self, value: str = "", **props: Any) -> None:
        super().__init__("controls", value, server=(read, gallery), **props)


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
    groups: dict[str, list[dict[str, str | Text]]] = {}
    for method in methods.values():
        groups.setdefault(method.family, []).append(
            {
                "id": method.id,
                "title": method.title,
                "note": text("play.lossless" if method.lossless else "play.lossy"),
                "blocked": blocked(method, has),
            }
        )
    return encode(
        {
            "kind": "method",
            "keep": keep,
            "label": text("play.method"),
            "selected": chosen,
            "groups": [{"title": family_title(family), "options": options} for family, options in groups.items()],
        }
    )


def family_title(family: str) -> Text | str:
    """What a family of methods is called."""
    try:
        return text(f"families.{family}")
    except KeyError:  # somebody else's package brought it
        return family.replace("-", " ").capitalize()


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
            "placeholder": text("play.examples"),
            "groups": [{"title": title, "options": options} for title, options in groups.items()],
        }
    )


def method_card(method: Method) -> str:
    """The value of a `Card`."""
    paper = method.paper
    return encode(
        {
            "id": method.id,
            "idea": method.idea,
            "look_at": method.look_at,
            "lossless": method.lossless,
            "badge": text("play.badge-lossless" if method.lossless else "play.badge-lossy"),
            "badge_title": text("play.lossless-why" if method.lossless else "play.lossy-why"),
            "paper": str(paper) if paper else "",
            "link": f"https://arxiv.org/abs/{paper.arxiv}" if paper and paper.arxiv else "",
        }
    )


def prompt_chips(method: Method, prompts: Mapping[str, Prompt]) -> str:
    """Prompts on which the method shines, and where it loses."""

    def chips(ids: Iterable[str], verdict: str) -> list[dict[str, Any]]:
        known = [prompts[id] for id in ids if id in prompts][:1]
        return [{"id": one.id, "label": text(verdict, prompt=one.title), "title": one.prompt[:200]} for one in known]

    return encode(chips(method.shines, "play.shines") + chips(method.loses, "play.loses"))


RUN_SETTINGS: tuple[dict[str, Any], ...] = (
    {"name": "max_new_tokens", "kind": "int", "low": 1, "high": 512, "default": 96},
    {"name": "seed", "kind": "int", "low": 0, "default": 0, "more": True, "summary": True},
    {"name": "raw", "kind": "bool", "default": False, "more": True},
    {"name": "stop", "kind": "str", "default": "", "more": True, "placeholder": text("settings.stop.placeholder")},
    {"name": "time_limit", "kind": "float", "low": 0, "default": 60, "more": True, "optional": True},
)
"""What every run can be told. Label and help are `settings.<name>.label` and `.help` in `assets/texts`."""


def controls(method: Method, values: Mapping[str, Any] | None = None) -> str:
    """The value of a `Controls` for `method`; `values` keeps what was chosen before where it still applies."""
    return controls_of([*own_settings(method, FRONT_SETTINGS), *map(_shared, RUN_SETTINGS)], values, method=method.id)


def own_controls(method: Method, values: Mapping[str, Any] | None = None, *, prefix: str) -> str:
    """As `controls`, with the method's own settings only, all behind "more…"; `prefix` begins the fields' ids."""
    return controls_of(own_settings(method), values, method=method.id, prefix=prefix)


def run_controls(settings: Iterable[dict[str, Any]], values: Mapping[str, Any] | None = None, *, prefix: str) -> str:
    """As `controls`, with these of what every run can be told, and nothing of a method."""
    return controls_of(list(map(_shared, settings)), values, prefix=prefix)


def _shared(setting: dict[str, Any]) -> dict[str, Any]:
    name = setting["name"]
    words = {} if "label" in setting else {part: text(f"settings.{name}.{part}") for part in ("label", "help")}
    return words | setting


def controls_of(
    settings: list[dict[str, Any]], values: Mapping[str, Any] | None, *, method: str = "", prefix: str = "set"
) -> str:
    """The value of a `Controls` with these settings; the rest of `values` is left out.

    So is an empty grammar: in a form an empty field means off, which a grammar cannot be.
    """
    kept = dict(values or {})
    chosen = {setting["name"]: kept.get(setting["name"], setting["default"]) for setting in settings}
    texts = {setting["name"] for setting in settings if setting.get("section")}
    return encode(
        {
            "method": method,
            "prefix": prefix,
            "settings": [{"low": None, "high": None, **setting} for setting in settings],
            "values": {name: value for name, value in chosen.items() if name not in texts or value},
        }
    )


def own_settings(method: Method, front: int = 0) -> list[dict[str, Any]]:
    """A method's settings, all but `front` of them behind "more…". A grammar and its kind stand in a part of their
    own."""
    settings = method.settings()
    apart = _constraint(method)
    first = [setting.name for setting in settings if setting.name not in apart][:front]
    return [
        _control(setting, more=setting.name not in first) | {"section": KIND if setting.name in apart else ""}
        for setting in settings
    ]


def _constraint(method: Method) -> dict[str, Setting]:
    """A grammar and its kind, where a method takes them."""
    settings = method.settings()
    edited = any(setting.editor == EDITOR for setting in settings)
    return {one.name: one for one in settings if one.editor == EDITOR or (edited and one.name == KIND)}


def kept_constraint(values: Mapping[str, Any], before: Method | None, after: Method) -> dict[str, Any]:
    """The constraint that somebody set for one method, where the next one takes it too.

    Nothing where there is none, and nothing where it is what the method began with: nobody asked for that.
    """
    old, new = _constraint(before) if before else {}, _constraint(after)
    if KIND not in old or old.keys() != new.keys():
        return {}
    kept = {name: values.get(name, setting.default) for name, setting in old.items()}
    if kept[KIND] == "none" or kept[KIND] not in new[KIND].choices:
        return {}
    return kept if any(kept[name] != setting.default for name, setting in old.items()) else {}


def _control(setting: Setting, *, more: bool) -> dict[str, Any]:
    return {
        "name": setting.name,
        "label": setting.name.replace("_", " ").capitalize(),
        "help": setting.help,
        "kind": setting.kind.__name__,
        "automatic": setting.automatic,
        "low": setting.low,
        "high": setting.high,
        "choices": list(setting.choices),
        "optional": setting.optional,
        "default": setting.default,
        "more": more,
        "editor": setting.editor,
    }

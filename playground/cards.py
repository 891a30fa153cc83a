"""What can be chosen, in words and as JSON-ready objects: a method with its parameters, a model with its precisions."""

from __future__ import annotations

import json
from typing import Any

from engines.method import NEED_WORDS, Method, Setting
from engines.models.catalogue import ModelCard


def method_object(method: Method) -> dict[str, Any]:
    """A method's card, ready for JSON."""
    return {
        "id": method.id,
        "title": method.title,
        "family": method.family,
        "lossless": method.lossless,
        "idea": method.idea,
        "look_at": method.look_at,
        "paper": str(method.paper) if method.paper else None,
        "needs": [NEED_WORDS[need] for need in method.needs],
        "parameters": [
            {
                "name": setting.name,
                "help": setting.help,
                "type": setting.kind.__name__,
                "default": setting.default,
                "low": setting.low,
                "high": setting.high,
                "choices": list(setting.choices),
                "optional": setting.optional,
            }
            for setting in method.settings()
        ],
    }


def method_card(method: Method) -> str:
    """A method's card and every parameter, for reading."""
    card = method_object(method)
    lines = [f"{method.title} ({method.id})", "", method.idea]
    lines += [f"Look at: {method.look_at}"] if method.look_at else []
    lines += [f"Paper: {method.paper.title}. {method.paper}"] if method.paper else []
    lines += [f"Family: {method.family}. {'Lossless' if method.lossless else 'Not lossless'}."]
    lines += [f"Needs {' and '.join(card['needs'])}."] if card["needs"] else []
    lines += ["", "Parameters:" if card["parameters"] else "No parameters."]
    for setting in method.settings():
        allowed = ", ".join(setting.choices) or "true or false" if setting.kind in (bool, str) else limits(setting)
        lines += [f"  {setting.name} = {json.dumps(setting.default)}   ({allowed})", f"      {setting.help}"]
    return "\n".join(lines)


def limits(setting: Setting) -> str:
    """The range of a number, in words."""
    noun = "whole number" if setting.kind is int else "number"
    low = f"from {setting.low:g}" if setting.low is not None else ""
    high = f"to {setting.high:g}" if setting.high is not None else ""
    return " ".join(filter(None, [noun, low, high, "or null" if setting.optional else ""]))


def model_object(card: ModelCard) -> dict[str, Any]:
    """What is known about a model, and whether it is at hand."""
    from engines.models.quantisation import precisions

    return {
        "id": card.id,
        "title": card.title,
        "state": _state(card),
        "parameters": card.parameters,
        "licence": card.licence,
        "source": card.source,
        "note": card.note,
        "precisions": {each.id: each.reason or "available" for each in precisions(card)},
    }


def model_card(card: ModelCard) -> str:
    """The same for reading."""
    from engines.models.quantisation import precisions

    lines = [f"{card.title} ({card.id})", *([card.note] if card.note else [])]
    lines += [f"State: {_state(card)}. Source: {card.source}. Licence: {card.licence or 'see its page on the hub'}."]
    lines += ["Precisions:", *(f"  {each.id}: {each.reason or each.note}" for each in precisions(card))]
    return "\n".join(lines)


def _state(card: ModelCard) -> str:
    from engines.models.conversion import packaged_file
    from engines.models.loading import is_prepared

    if is_prepared(card.id):
        return "ready"
    if card.package and packaged_file(card.package, card.file):
        return "installed, prepared at first use"
    return "downloaded at first use"

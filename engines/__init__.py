"""How text is decoded: models, methods, and the events they speak in.

    import engines

    model = engines.load()
    for event in engines.run(model, "token-recycling", "What is photosynthesis?"):
        print(event)

Public: `run`, `methods`, `load`, the package `models`, and `events`. What needs torch is imported at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from engines import events, models
from engines.errors import DecodingError
from engines.method import methods

if TYPE_CHECKING:
    from engines.models.loading import load
    from engines.runner import run

__all__ = ["DecodingError", "events", "load", "methods", "models", "run"]

_AT_FIRST_USE = {"run": "engines.runner", "load": "engines.models.loading"}


def __getattr__(name: str) -> Any:
    if name in _AT_FIRST_USE:
        return getattr(importlib.import_module(_AT_FIRST_USE[name]), name)
    raise AttributeError(f"module 'engines' has no attribute {name!r}")

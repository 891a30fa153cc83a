"""What is said when something cannot be done: one sentence to whoever asked, and the details to the log alone.

The page's events trust what they get, so that each reads as what it does. A forged one can therefore break one of
them, as a mistake of ours could; either way the sender learns that it broke and nothing else, and the server goes on.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from engines.errors import DecodingError

BROKE = "Something broke on the server, and was noted there. Reload the page, or try something else."

log = logging.getLogger(__name__)


class Refusal(gr.Error):
    """A sentence for whoever asked."""

    def __init__(self, message: str) -> None:
        super().__init__(message, print_exception=False)

    def __str__(self) -> str:
        return str(self.message)


@contextmanager
def calm(doing: str) -> Iterator[None]:
    """Turns every exception into a `Refusal`; what is not a `DecodingError` is logged."""
    try:
        yield
    except DecodingError as error:
        raise Refusal(str(error)) from None
    except gr.Error:
        raise
    except Exception:
        log.exception("%s broke", doing)
        raise Refusal(BROKE) from None


def calm_events(app: gr.Blocks) -> None:
    """Makes every event of `app` answer calmly."""
    for event in app.fns.values():
        if event.fn is not None:
            event.fn = _calm(event.fn, str(event.api_name))


def _calm(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def steps(*given: Any, **named: Any) -> Iterator[Any]:
            with calm(name):
                yield from function(*map(whole, given), **named)

        return steps

    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        with calm(name):
            return function(*map(whole, given), **named)

    return call


def whole(value: Any) -> Any:
    """`value` with question marks for halves of characters, which no answer and no database could hold."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {whole(name): whole(one) for name, one in value.items()}
    if isinstance(value, list):
        return [whole(one) for one in value]
    if isinstance(value, gr.EventData):
        value._data = whole(value._data)
    return value

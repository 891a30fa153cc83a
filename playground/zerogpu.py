"""The same runs on a ZeroGPU Space, where a GPU is lent for one run at a time, to a child process.

Such a Space has no GPU of its own. A generator decorated with `spaces.GPU` runs in a child that was forked off this
process and given a GPU, and what it yields comes back through a pipe. So a run is asked for in words that can travel
(a `Setup` and the name of the model), its events are made over there, and they are recorded, drawn and shown here,
by the same code as everywhere else. Closing the generator ends the child's after the event that it is at.

What a child raises arrives as its class's name only, so a `DecodingError` travels as a `Refusal`. A child is used
again for later runs, and knows the models that were there when it was forked: another one it loads itself.

Without the package `spaces`, or off ZeroGPU, `lends` is false and nothing here is used. What can be tested without
such hardware is: the package's own bridge between the processes, with the service that lends GPUs left out. What
cannot: that service, its quota, the moving of weights to the GPU, and a model chosen after the start.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, cast

import msgspec

from engines.errors import DecodingError
from engines.events import Event
from playground.setup import Setup

if TYPE_CHECKING:
    from collections.abc import Generator

    from engines.models.causal import CausalModel

START_SECONDS = 10.0
"""For the child to start and the weights to reach the GPU."""
TOKEN_SECONDS = 0.05
"""For one token, generously."""
LONGEST_SECONDS = 120.0
"""What the hub lends at most."""

Name = tuple[str, str, str]
"""A model by id, precision and weights."""

_lent: dict[Name, CausalModel] = {}


class Refusal(msgspec.Struct, frozen=True):
    """The sentence of a `DecodingError` on its way back from the child."""

    sentence: str


class RefusedByChild(DecodingError):
    """What the child could not do."""


def lends() -> bool:
    """Whether this process is a ZeroGPU Space."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true") and find_gpu() is not None


def find_gpu() -> Callable[..., Any] | None:
    """The decorator of the package `spaces`, if it is installed."""
    with contextlib.suppress(ImportError):
        import spaces

        return cast("Callable[..., Any]", spaces.GPU)
    return None


def events(setup: Setup, model: CausalModel, *, decode: Callable[..., Iterator[Any]] | None = None) -> Iterator[Event]:
    """The run of `setup`, made by a child with a GPU. Raises `RefusedByChild` at the first event if it cannot be met.

    `decode` is the generator that is called, `decode_there` unless a test brings its own.
    """
    name = (model.name, model.precision, model.weights)
    _lent[name] = model
    work = cast("Generator[Any]", (decode or decode_there)(setup, name))
    with closing(work):
        for told in work:
            if isinstance(told, Refusal):
                raise RefusedByChild(told.sentence)
            yield told


def seconds(setup: Setup, name: Name = ("", "", "")) -> float:
    """How long the GPU is asked for, from the request: less is granted sooner."""
    asked = START_SECONDS + TOKEN_SECONDS * setup.max_new_tokens
    limit = START_SECONDS + setup.time_limit if setup.time_limit else asked
    return min(asked, limit, LONGEST_SECONDS)


def there(setup: Setup, name: Name) -> Iterator[Event | Refusal]:
    """What the child does."""
    try:
        yield from setup.begin(_model(name))
    except DecodingError as error:
        yield Refusal(str(error))


decode_there: Callable[..., Iterator[Event | Refusal]] = (
    gpu(duration=seconds)(there) if (gpu := find_gpu()) is not None else there
)
"""Decorated when this module is imported, since the hub looks for such a function when a Space starts."""


def _model(name: Name) -> CausalModel:
    if name not in _lent:
        import engines

        id, precision, _ = name
        _lent[name] = engines.load(id, precision=precision)
    return _lent[name]

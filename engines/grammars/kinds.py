"""From a request to a constraint, whatever its kind. What was compiled is kept for the next run that asks for it."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, cast

from engines.errors import NeedNotMet
from engines.grammars.constraint import Constraint
from engines.grammars.guidance import Guidance, Kind, Whitespace, compile_guidance
from engines.method import Need

if TYPE_CHECKING:
    from engines.models.causal import CausalModel

MOST_KEPT = 64

_kept: OrderedDict[tuple[object, ...], Guidance] = OrderedDict()
_lock = Lock()


def constraint_for(
    kind: str,
    text: str,
    model: CausalModel,
    *,
    forcing: bool = False,
    whitespace: Whitespace = "one space",
) -> Constraint:
    """A constraint at the beginning of a text, as `compile_guidance` makes it.

    Raises `BadGrammar`; `NeedNotMet` when the model does not tell all its probabilities.
    """
    if Need.LOGITS not in model.has:
        raise NeedNotMet(
            f"{model.title} tells only its most probable tokens, and a constraint needs the probabilities of all. "
            "Choose a model that runs here."
        )
    vocabulary = model.vocabulary
    key = (vocabulary.key, kind, text, forcing, whitespace)
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key].fork()
    fresh = compile_guidance(cast(Kind, kind), text, vocabulary, forcing=forcing, whitespace=whitespace)
    with _lock:
        _kept[key] = fresh
        while len(_kept) > MOST_KEPT:
            _kept.popitem(last=False)
    return fresh.fork()

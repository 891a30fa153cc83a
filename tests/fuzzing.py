"""Random but valid events of every kind, made from the vocabulary's own types."""

from __future__ import annotations

import types
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from hypothesis import strategies as st

from engines.events import EVENTS, Event

WORDS = st.one_of(
    st.sampled_from([" the", "\n", "", "\x00", "<b>", "%{x}", "\u202e", "💥", "target", "cost", "a" * 300]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)
WHOLE = st.one_of(st.integers(-2, 12), st.integers(0, 600), st.sampled_from([-(2**62), 10**9, 2**62, 10**30]))
NUMBERS = st.one_of(
    st.floats(0, 1), st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([0.0, -0.0, 1e-300, 1.7e308])
)


def any_event(*kinds: type[Event]) -> st.SearchStrategy[Event]:
    """An event of one of `kinds`, by default of any."""
    return st.one_of([_struct(kind) for kind in kinds or EVENTS])


@cache
def _struct(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(kind)
    fields = {name: _value(name, hints[name]) for name in kind.__struct_fields__}
    return st.builds(kind, **fields)


def _value(name: str, hint: Any) -> st.SearchStrategy[Any]:
    if name == "hex":
        return st.one_of(st.just(""), st.binary(min_size=1, max_size=4).map(bytes.hex))
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _struct(hint)
    plain = {int: WHOLE, float: NUMBERS, str: WORDS, bool: st.booleans(), type(None): st.none()}
    if hint in plain:
        return plain[hint]
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Literal:
        return st.sampled_from(inside)
    if origin in (Union, types.UnionType):
        return st.one_of([_value("", one) for one in inside])
    if origin is tuple and inside[1:] == (...,):
        return st.lists(_value("", inside[0]), max_size=5).map(tuple)
    if origin is tuple:
        return st.tuples(*(_value("", one) for one in inside))
    if origin is dict:
        return st.dictionaries(_value("", inside[0]), _value("", inside[1]), max_size=3)
    raise TypeError(f"no strategy for {hint}")

"""The method contract: what a decoding method is, and how it is found.

A method is a generator function `(run, params) -> Iterator[Event]` with a card. It lives in one file,
which registers it with the `@method` decorator:

    class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        width: Annotated[int, Meta(ge=1, le=16, description="Successors remembered per token")] = 8

    @method("my-method", title="My method", family="speculative", lossless=True, params=Params, idea="…", …)
    def my_method(run: Run, params: Params) -> Iterator[Event]: ...

The page builds its controls from `Params`, the command line its options. A third party's package adds a
method by naming its module in the entry-point group `decoding_playground.methods`.
"""

from __future__ import annotations

import enum
import importlib
import math
import pkgutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import msgspec

from engines.errors import BadParameter, UnknownMethod, nearest, shown
from engines.events import Event

if TYPE_CHECKING:
    from engines.runner import Run

ENTRY_POINT_GROUP = "decoding_playground.methods"

Value = bool | int | float | str | None

AUTOMATIC = {"automatic": True}
"""Marks a number of which 0 stands for one that the method picks: `Meta(extra=AUTOMATIC)`."""


class Need(enum.Flag):
    """What a method asks of a model, and what a model says it has."""

    NOTHING = 0
    ROLLBACK = enum.auto()
    """The cache can forget its last tokens."""
    TREE_ATTENTION = enum.auto()
    """One pass can read a tree of tokens, each seeing only its ancestors."""
    BATCH = enum.auto()
    """Several sequences can be decoded side by side, and rows copied or dropped."""
    HIDDEN_STATES = enum.auto()
    """The last layer's hidden states can be read."""
    LOGITS = enum.auto()
    """Every token's logit is known, not only those of the most probable ones. Methods that say nothing need this."""
    GRADIENTS = enum.auto()
    """Gradients flow through the network, and its inside can be read and changed. Methods that need this read the
    prompt themselves."""


NEED_WORDS = {
    Need.ROLLBACK: "a cache that can be rolled back",
    Need.TREE_ATTENTION: "attention over a tree of tokens",
    Need.BATCH: "several sequences side by side",
    Need.HIDDEN_STATES: "access to hidden states",
    Need.LOGITS: "the probabilities of all tokens",
    Need.GRADIENTS: "gradients through float32 weights",
}


@dataclass(frozen=True, slots=True)
class Paper:
    """Where a method comes from."""

    title: str
    authors: str
    year: int
    arxiv: str = ""

    def __str__(self) -> str:
        return f"{self.authors} {self.year}" + (f", arXiv {self.arxiv}" if self.arxiv else "")


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a method's `Params`, as the page and the command line need it."""

    name: str
    help: str
    kind: type[bool] | type[int] | type[float] | type[str]
    default: Value
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    optional: bool = False
    automatic: bool = False
    """0 stands for a number that the method picks, as the help says; the field's `Meta(extra=AUTOMATIC)`."""
    editor: str = ""
    """What kind of text it is, if a plain line is not enough; the field's `Meta(extra={"editor": …})`."""


class NoParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For methods without settings of their own."""


@dataclass(frozen=True, slots=True)
class Method:
    """A decoding method: its card and its generator."""

    id: str
    title: str
    family: str
    idea: str
    look_at: str
    lossless: bool
    needs: Need
    paper: Paper | None
    params: type[msgspec.Struct]
    generate: Callable[[Run, Any], Iterator[Event]]
    shines: tuple[str, ...]
    """Ids of example prompts (`assets/prompts.json`) on which the method does well."""
    loses: tuple[str, ...]
    pictures: tuple[str, ...]
    """Ids of the pictures that show the method's idea, most telling first."""

    def settings(self) -> list[Setting]:
        """The fields of `Params`, the method's own before those it inherits."""
        fields = msgspec.inspect.type_info(self.params).fields  # type: ignore[attr-defined]
        own = self.params.__annotations__
        return [_setting(field) for field in sorted(fields, key=lambda field: field.name not in own)]

    def validate(self, values: Mapping[str, Any] | None) -> Any:
        """`values` as a `Params`; missing ones take their defaults.

        Strings are read as numbers or booleans where the field asks for them (command line, web forms).
        Raises `BadParameter` with the bad name or value and what would be allowed.
        """
        values = dict(values or {})
        settings = {setting.name: setting for setting in self.settings()}
        for name, value in list(values.items()):
            if name not in settings:
                hint = nearest(name, settings) if settings else "It has no parameters."
                raise BadParameter(f"{self.title} has no parameter called {shown(str(name))}. {hint}")
            if value is None and settings[name].kind is str and not settings[name].optional:
                values[name] = ""  # an empty field of a web form
                continue
            if isinstance(value, float) and not math.isfinite(value):
                raise BadParameter(f"{name} must be a finite number, not {value}. {_allowed(settings[name])}")
            if settings[name].kind in (int, float) and isinstance(value, bool):
                raise BadParameter(f"{name} must be a number, not {value}. {_allowed(settings[name])}")
            if settings[name].kind is float and isinstance(value, str) and _is_not_finite(value):
                raise BadParameter(f"{name} must be a finite number, not {shown(value)}. {_allowed(settings[name])}")
        try:
            return msgspec.convert(values, self.params, strict=False)
        except msgspec.ValidationError as error:
            name = str(error).rpartition("`$.")[2].rstrip("`")
            if name in settings:
                value = shown(str(values[name]))
                raise BadParameter(f"{name} cannot be {value}. {_allowed(settings[name])}") from None
            raise BadParameter(f"{error}.") from None


_registry: dict[str, Method] = {}


def method(
    id: str,
    *,
    title: str,
    family: str,
    idea: str,
    look_at: str = "",
    lossless: bool = False,
    needs: Need = Need.LOGITS,
    paper: Paper | None = None,
    params: type[msgspec.Struct] = NoParams,
    shines: tuple[str, ...] = (),
    loses: tuple[str, ...] = (),
    pictures: tuple[str, ...] = (),
) -> Callable[[Callable[[Run, Any], Iterator[Event]]], Callable[[Run, Any], Iterator[Event]]]:
    """Registers a generator function as the decoding method `id`. Raises `ValueError` when the id is taken."""

    def register(generate: Callable[[Run, Any], Iterator[Event]]) -> Callable[[Run, Any], Iterator[Event]]:
        if id in _registry and _registry[id].generate.__module__ != generate.__module__:
            raise ValueError(
                f"two methods are called {id!r}: {_registry[id].generate.__module__}, {generate.__module__}"
            )
        _registry[id] = Method(
            id, title, family, idea, look_at, lossless, needs, paper, params, generate, shines, loses, pictures
        )
        return generate

    return register


@cache
def _discover() -> None:
    """Imports every method file: our own family folders, then third parties' entry points."""
    import engines

    for family in pkgutil.iter_modules(engines.__path__, "engines."):
        if family.ispkg and family.name != "engines.models":
            package = importlib.import_module(family.name)
            for module in pkgutil.iter_modules(package.__path__, f"{family.name}."):
                importlib.import_module(module.name)
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            entry.load()
        except Exception as error:  # somebody else's package must not take ours down
            warnings.warn(f"The method package {entry.name!r} could not be loaded: {error}", stacklevel=2)


def methods() -> dict[str, Method]:
    """Every known method by id, family by family, whichever module was imported first."""
    _discover()
    return dict(sorted(_registry.items(), key=lambda item: (item[1].family != "baselines", item[1].family, item[0])))


def find(id: str) -> Method:
    """The method called `id`. Raises `UnknownMethod`, which names the nearest ones."""
    known = methods()
    if id not in known:
        raise UnknownMethod(id, known)
    return known[id]


def _setting(field: msgspec.inspect.Field) -> Setting:
    kind: Any = field.type
    meta: msgspec.inspect.Metadata | None = None
    if isinstance(kind, msgspec.inspect.Metadata):
        kind, meta = kind.type, kind
    optional = isinstance(kind, msgspec.inspect.UnionType)
    if isinstance(kind, msgspec.inspect.UnionType):
        kind = next(part for part in kind.types if not isinstance(part, msgspec.inspect.NoneType))
        if isinstance(kind, msgspec.inspect.Metadata):
            kind, meta = kind.type, meta or kind
    extra = (meta.extra or {}) if meta else {}
    help = ((meta.extra_json_schema or {}).get("description", "") if meta else "") or field.name.replace("_", " ")
    kinds: dict[type, type[bool] | type[int] | type[float] | type[str]] = {
        msgspec.inspect.BoolType: bool,
        msgspec.inspect.IntType: int,
        msgspec.inspect.FloatType: float,
        msgspec.inspect.StrType: str,
        msgspec.inspect.LiteralType: str,
    }
    return Setting(
        name=field.name,
        help=help,
        kind=kinds[type(kind)],
        default=field.default,
        low=getattr(kind, "ge", None),
        high=getattr(kind, "le", None),
        choices=tuple(str(value) for value in kind.values) if isinstance(kind, msgspec.inspect.LiteralType) else (),
        optional=optional,
        automatic=bool(extra.get("automatic")),
        editor=str(extra.get("editor", "")),
    )


def _allowed(setting: Setting) -> str:
    if setting.choices:
        return f"Choose one of: {', '.join(setting.choices)}."
    if setting.kind is bool:
        return "Give true or false."
    noun = {int: "whole number", float: "number", str: "text"}[setting.kind]
    if setting.low is not None and setting.high is not None:
        return f"Give a {noun} from {setting.low:g} to {setting.high:g}."
    return f"Give a {noun}." if setting.kind is not str else f"Give a text. {setting.help.rstrip('.')}."


def _is_not_finite(text: str) -> bool:
    try:
        return not math.isfinite(float(text))
    except ValueError:
        return False

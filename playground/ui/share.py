"""Hand a run on: the share dialog with its links, code, card and QR codes; and what a link does to the page it opens.

The dialog is about the run on the stage. Links are made of what the browser knows (where the page is) and what the
server says here (the query behind it). A link never starts a run: it fills the rail, and the reader presses Run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
import segno

from engines.errors import DecodingError, nearest
from engines.events import Finished
from playground import run_card
from playground.links import BadLink, chosen, decoded, encoded
from playground.setup import Setup
from playground.texts import Text, text
from playground.ui import rail
from playground.ui.house import House
from playground.ui.live import ASSETS, Live, encode
from playground.ui.shelf import RECORDED_RUN

MOST_IN_QR = 1_000
"""Characters of a link that phones still read off a screen."""


class Share(Live):
    """The share button of the stage with its dialog."""

    def __init__(self, house: House, **props: Any) -> None:
        sharing = Sharing(house)
        super().__init__("share", server=(sharing.links, sharing.card, sharing.qr), **props)


class Notice(Live):
    """What the link that opened the page asks of the reader: above the method."""

    def __init__(self, value: str = "", **props: Any) -> None:
        super().__init__("notice", value, **props)


class Sharing:
    """What the dialog asks the server for. Each takes one dict, and answers `{"problem": …}` when it cannot."""

    def __init__(self, house: House) -> None:
        self._house = house

    def links(self, what: dict[str, Any]) -> dict[str, Any]:
        """The queries of a run's links, each behind the page's own address, and what to know about them."""
        return self._about(what, self._links)

    def card(self, what: dict[str, Any]) -> dict[str, Any]:
        """The run card as a file."""
        return self._about(what, lambda run, events: {"card": run_card.to_json(run_card.card_of(events))})

    def qr(self, what: dict[str, Any]) -> dict[str, Any]:
        """A QR code of a link, as a data address for an image."""
        link = str(what.get("link", ""))
        if not re.match(r"https?://[!-~]+$", link):
            return {"problem": text("share.qr-unfit")}
        if len(link) > MOST_IN_QR:
            return {"problem": text("share.qr-long", characters=len(link), limit=MOST_IN_QR)}
        return {"image": qr_image(link)}

    def _about(self, what: dict[str, Any], answer: Callable[[str, Any], dict[str, Any]]) -> dict[str, Any]:
        run = str(what.get("run", ""))[:200]
        try:
            return answer(run, self._house.shelf.events(run))
        except DecodingError as error:
            return {"problem": str(error)}

    def _links(self, run: str, events: Any) -> dict[str, Any]:
        links: dict[str, Any] = {"run": f"?run={quote(run, safe='')}", "name": run, "note": self._note(run, events)}
        links["embed"] = f"?view=embed&run={quote(run, safe='')}"
        setup = Setup.of(events)
        try:
            compact = encoded(setup)
        except BadLink as error:
            return links | {"setup_problem": str(error)}
        return links | {
            "setup": f"?setup={compact}",
            "class": f"?class={compact}&run={quote(run, safe='')}",
            "given": len(setup.prefix),
            "lessons": lessons(),
        }

    def _note(self, run: str, events: Any) -> Text | None:
        if not isinstance(events[-1], Finished):
            return text("share.unfinished")
        if run.startswith(RECORDED_RUN):
            return text("share.recorded")
        try:
            self._house.store.run(run)
        except DecodingError:
            return text("share.not-kept")
        return None


@cache
def lessons(folder: Path = ASSETS / "lessons") -> list[dict[str, str]]:
    """Ids and titles of the lessons, in their order."""
    found = []
    for file in sorted(folder.glob("*.md")):
        front = file.read_text(encoding="utf-8").split("---")[1]
        fields = dict(re.findall(r"^(\w+): *(.+)$", front, re.MULTILINE))
        found.append((int(fields.get("order", 99)), {"id": file.stem, "title": fields.get("title", file.stem)}))
    return [lesson for _, lesson in sorted(found, key=lambda pair: pair[0])]


@lru_cache(maxsize=64)
def qr_image(link: str) -> str:
    """An SVG of the code with its quiet zone, dark on white in either theme, as a data address."""
    code: str = segno.make(link, error="m", micro=False).svg_data_uri(scale=4, border=4, dark="#000", light="#fff")
    return code


def in_rail(house: House, setup: Setup) -> list[Any]:
    """A set-up in the rail: method, card, prompt, chips and controls. A method that is not here changes nothing."""
    method = house.methods.get(setup.method)
    if method is None:
        return [gr.skip()] * 5
    asked = {
        "seed": setup.seed,
        "max_new_tokens": setup.max_new_tokens,
        "raw": setup.raw,
        "stop": "|".join(one.replace("\n", "\\n") for one in setup.stop),
        "time_limit": setup.time_limit,
    }
    return [
        rail.method_picker(house.methods, method.id, house.resident.has),
        rail.method_card(method),
        setup.prompt,
        rail.prompt_chips(method, house.prompts),
        rail.controls(method, setup.params | asked),
    ]


def opened_by(house: House, query: Mapping[str, str]) -> tuple[list[Any] | None, str]:
    """What a page's address asks of the rail (None: nothing), and the value of the `Notice` that says so."""
    compact = query.get("class") or query.get("setup")
    if not compact:
        return None, ""
    try:
        setup = decoded(compact)
    except BadLink as error:
        return None, notice(str(error), tone="problem")
    if setup.method not in house.methods:
        hint = nearest(setup.method, house.methods)
        return None, notice(text("share.unknown-method", method=setup.method, hint=hint), tone="problem")
    notes = [text("share.for-class" if "class" in query else "share.opened")]
    if setup.prefix:
        notes.append(text("share.given", n=len(setup.prefix)))
    strange = [
        name for name in chosen(setup) if name not in {one.name for one in house.methods[setup.method].settings()}
    ]
    if strange:
        notes.append(text("share.unknown-settings", names=", ".join(strange)))
    here = _loaded(house)
    pairs = zip((setup.model, setup.precision), here, strict=True)
    other = any(made and now and made != now for made, now in pairs)
    if other:
        made = " ".join(filter(None, [setup.model, setup.precision]))
        notes.append(text("share.other-model", made=made, here=" ".join(filter(None, here))))
    held = {"prompt": setup.prompt, "seed": setup.seed} if "class" in query else None
    return in_rail(house, setup), notice(*notes, models=other, held=held)


def notice(*notes: str | Text, tone: str = "calm", models: bool = False, held: Mapping[str, Any] | None = None) -> str:
    """The value of a `Notice`. `models` offers the Models page; `held` are the fields that a class cannot change."""
    return encode({"notes": notes, "tone": tone, "models": models, "held": held})


def _loaded(house: House) -> tuple[str, str]:
    """Name and precision of the model in use, or of the one on its way."""
    model = house.resident.model
    return (model.name, model.precision) if model else (house.resident.wanted, "")

"""Chosen runs as plain files: a read-only gallery that needs no server, only a browser and a folder.

`write` makes `index.html` and one page per run. A run's page holds what the Play page would have been sent for every
step: numbers, text, scrubber and pictures with their narrations, as JSON. The first step is whole, every later one is
the difference to the one before it (`difference`), so what does not change is stored once. The same scripts as the
app's draw it; `gallery.js` stands in for Gradio. Pages ask nobody for anything, so they also open from a disk.

A run's page holds at most `MOST_BYTES`. Of a run that needs more, the pictures with the largest differences show the
whole run only, and their pages say so.
"""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from engines.errors import DecodingError, shown
from engines.events import Event, Finished, Started, committed
from engines.method import Method, methods
from playground import glossary, run_card
from playground.recording import spelled
from playground.store import Store
from playground.texts import TEXTS, languages
from playground.ui.drawing import STREAM, Canvas
from playground.ui.live import ASSETS, PLOTLY, SCRIPTS
from playground.ui.shelf import RECORDED_RUN, Shelf, steps
from playground.ui.theme import stylesheet
from visuals.palette import dark_of
from visuals.picture import Picture, pictures

MOST_BYTES = 8 * 2**20
"""Bytes of one run's data."""
DIGITS = 6
"""Significant digits of the numbers in pictures; a screen has about four."""
MARK = "decoding-playground-gallery"
"""A file of this name says that a folder is a gallery, which may be written over."""


class BadGallery(DecodingError):
    """The gallery cannot be written as asked."""


def write(output: str, runs: Sequence[str], *, recorded: bool = False, title: str = "Gallery") -> Iterator[str]:
    """Writes the gallery into the folder `output`; says page by page what was written.

    Args:
        output: a new or empty folder, or one that holds an earlier gallery.
        runs: ids of kept or shipped runs; `last` is the newest kept one.
        recorded: all shipped runs too, after the others.

    Raises:
        DecodingError: a run is unknown, or the folder is something else's.
    """
    folder = _folder(Path(output))
    known, drawn = methods(), pictures()
    entries = []
    with Store.open() as store:
        shelf = Shelf(store)
        ids = [_newest(store) if run == "last" else run for run in runs]
        ids += [RECORDED_RUN + name for name in shelf.recordings()] if recorded else []
        chosen = [(id, shelf.events(id)) for id in dict.fromkeys(ids)]
    _copy_assets(folder)
    for id, events in chosen:
        header = events[0] if events else None
        if not isinstance(header, Started):
            raise BadGallery(f"Run {shown(id)} has no events, so there is nothing to show.")
        name = f"run-{re.sub(r'[^A-Za-z0-9_-]+', '_', id)}"
        data, shortened = frames(events, id, known, drawn)
        entry = _entry(name, header, events, known)
        (folder / f"{name}.json").write_text(run_card.to_json(run_card.card_of(events)), encoding="utf-8")
        page = _run_page(entry, data, shortened, title)
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
        entries.append(entry)
        only = f", only the whole run of: {', '.join(shortened)}" if shortened else ""
        yield f"{name}.html: {len(steps(events)) - 1} steps, {len(page.encode()) / 1e6:.1f} MB{only}"
    (folder / "index.html").write_text(_index_page(entries, title), encoding="utf-8")
    yield f"{folder / 'index.html'}: {len(entries)} {'run' if len(entries) == 1 else 'runs'}"


# What a run's page holds


def frames(
    events: Sequence[Event],
    id: str,
    known: Mapping[str, Method],
    drawn: Mapping[str, Picture],
    most: int = MOST_BYTES,
) -> tuple[dict[str, Any], list[str]]:
    """A run as `{"first": frame, "deltas": [difference, …]}`, one frame per step, and the titles of the pictures
    that show the whole run in every frame, because the run would have taken more than `most` bytes otherwise."""
    canvas = Canvas(drawn, known, id)
    count = len(steps(events))
    whole = _frame(canvas, events, count - 1)
    views: list[dict[str, Any]] = []
    costs: dict[str, int] = {}
    for step in range(count):
        view = _frame(canvas, events, step)
        for picture, plot in view["plots"].items():
            change = difference(views[-1]["plots"].get(picture), plot) if views else plot
            costs[picture] = costs.get(picture, 0) + len(_json(change))
        views.append(view)
    rest = len(_json(views[0]["stream"])) + sum(
        len(_json(difference({**a, "plots": {}}, {**b, "plots": {}}))) for a, b in pairwise(views)
    )
    fixed: list[str] = []
    saved = {picture: cost - len(_json(whole["plots"].get(picture))) for picture, cost in costs.items()}
    size = rest + sum(costs.values())
    for picture, saving in sorted(saved.items(), key=lambda pair: -pair[1]):
        if size > most and saving > 0:
            fixed.append(picture)
            size -= saving
    for view in views:
        for picture in fixed:
            view["plots"][picture] = whole["plots"][picture]
    deltas = [difference(a, b) for a, b in pairwise(views)]
    return {"first": views[0], "deltas": deltas}, [drawn[one].title for one in fixed]


def _frame(canvas: Canvas, events: Sequence[Event], step: int) -> dict[str, Any]:
    """One step as plain data, the JSON inside the JSON unpacked, so that its parts can be compared."""
    view = canvas.at(events, step, keep=False)
    plots = {}
    for id, value in view.plots.items():
        plot = json.loads(value)
        if not plot["relevant"]:
            continue
        figure = json.loads(plot["figure"]) if plot["figure"] else None
        plots[id] = {**plot, "figure": _rounded(figure), "step": 0}
    return {
        "numbers": json.loads(view.numbers),
        "stream": {
            "head": json.loads(view.stream["head"]),
            "tokens": [_rounded(json.loads(token)) for token in view.stream["tokens"]],
        },
        "scrubber": json.loads(view.scrubber),
        "plots": plots,
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return value


# Differences between two JSON values. `None` means equal; otherwise one of
#   ["=", value]                                    a new value
#   ["~", {name: difference}, [names gone]]         an object
#   ["@", length, {index: difference}, [appended]]  a list cut to `length`, some entries changed, some appended
#   ["|", start, gone, [entries]]                   a list with a stretch replaced
# `applied` in gallery.js is the other half.


def difference(old: Any, new: Any) -> list[Any] | None:
    """How `old` becomes `new`."""
    if _same(old, new):
        return None
    whole = ["=", new]
    if isinstance(old, dict) and isinstance(new, dict):
        changed = {
            name: ["=", value] if name not in old else change
            for name, value in new.items()
            if name not in old or (change := difference(old[name], value)) is not None
        }
        return _shorter(["~", changed, [name for name in old if name not in new]], whole)
    if isinstance(old, list) and isinstance(new, list) and old and new:
        return _shorter(_entrywise(old, new), _stretch(old, new), whole)
    return whole


def _entrywise(old: list[Any], new: list[Any]) -> list[Any]:
    common = min(len(old), len(new))
    changed = {str(k): change for k in range(common) if (change := difference(old[k], new[k])) is not None}
    return ["@", common, changed, new[common:]]


def _stretch(old: list[Any], new: list[Any]) -> list[Any]:
    most = min(len(old), len(new))
    start = next((k for k in range(most) if not _same(old[k], new[k])), most)
    end = next((k for k in range(most - start) if not _same(old[-1 - k], new[-1 - k])), most - start)
    return ["|", start, len(old) - start - end, new[start : len(new) - end]]


def _same(old: Any, new: Any) -> bool:
    """Whether both are the same JSON; Python takes 0, 0.0 and False for equal."""
    return bool(old == new) and _json(old) == _json(new)


def _shorter(*ways: list[Any]) -> list[Any]:
    return min(ways, key=lambda way: len(_json(way)))


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value)


# Files


def _folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not (folder / MARK).is_file():
            raise BadGallery(f"The folder {shown(str(folder))} holds other files. Name a new or empty one.")
        for old in [*folder.glob("run-*.html"), *folder.glob("run-*.json")]:
            old.unlink()
        (folder / MARK).write_text("This folder is written by: python -m playground gallery\n")
    except OSError as error:
        raise BadGallery(f"The folder {shown(str(folder))} cannot be written: {error.strerror}.") from None
    return folder


def _copy_assets(folder: Path) -> None:
    scripts = folder / "scripts"
    scripts.mkdir(exist_ok=True)
    for source in [*SCRIPTS, ASSETS / "gallery" / "gallery.js", PLOTLY]:
        shutil.copyfile(source, scripts / source.name)
    shutil.copyfile(ASSETS / "favicon.svg", folder / "favicon.svg")
    styles = [stylesheet(), (ASSETS / "gallery" / "gallery.css").read_text(encoding="utf-8")]
    (folder / "gallery.css").write_text("\n".join(styles), encoding="utf-8")


def _entry(name: str, header: Started, events: Sequence[Event], known: Mapping[str, Method]) -> dict[str, str]:
    """What the gallery's list says of a run."""
    last = events[-1]
    totals = last.totals if isinstance(last, Finished) else None
    facts = [f"{header.model} {header.precision}", header.machine]
    if totals:
        facts += [f"{totals.tokens} tokens", f"{totals.tokens_per_target_pass:.2f} tokens per target pass"]
    return {
        "name": name,
        "method": known[header.method].title if header.method in known else header.method,
        "idea": known[header.method].idea if header.method in known else "",
        "prompt": " ".join(header.prompt[:300].split()),
        "text": " ".join(spelled(committed(events))[:240].split()),
        "facts": " · ".join(facts),
    }


def _run_page(entry: Mapping[str, str], data: Any, shortened: Sequence[str], title: str) -> str:
    words = {language: json.loads((TEXTS / f"{language}.json").read_text(encoding="utf-8")) for language in languages()}
    say = html.escape
    note = (
        f"<p class='explains'>To keep this page small, these pictures show the whole run at every step: "
        f"{say(', '.join(shortened))}.</p>"
        if shortened
        else ""
    )
    main = f"""
<main class="page-run"><section class="card about"><h1 dir="auto">{say(entry["method"])}</h1>
<p class="explains">{say(entry["idea"])}</p><p class="asked" dir="auto">{say(entry["prompt"])}</p>
<p class="facts">{say(entry["facts"])} · <a href="{say(entry["name"])}.json" download>run card</a></p>{note}</section>
<div class="stage" id="stage"></div><noscript><p class="card">These pictures are drawn by scripts. The text:
<span dir="auto">{say(entry["text"])}</span></p></noscript></main>"""
    inner = {
        "words": words,
        "frames": data,
        "dark": dict(dark_of),
        "pictures": [one for one in pictures() if one != STREAM],
        "glossary": glossary.load(),
    }
    blocks = "".join(
        f'<script type="application/json" id="playground-{name}">{_inert(value)}</script>\n'
        for name, value in inner.items()
    )
    scripts = "".join(
        f'<script src="scripts/{name}"></script>\n' for name in (*(file.name for file in SCRIPTS), "gallery.js")
    )
    return _page(f"{entry['method']} · {title}", f"<a href='index.html'>{say(title)}</a>", main + blocks + scripts)


def _index_page(entries: Sequence[Mapping[str, str]], title: str) -> str:
    say = html.escape
    cards = "".join(
        f"""<li><a class="card" href="{say(one["name"])}.html"><b dir="auto">{say(one["method"])}</b>
<span class="asked" dir="auto">{say(one["prompt"])}</span><span class="said" dir="auto">{say(one["text"])}</span>
<small>{say(one["facts"])}</small></a></li>"""
        for one in entries
    )
    main = f"""<main class="page-index"><h1 dir="auto">{say(title)}</h1>
<p class="explains">Finished runs, to be played step by step. Nothing here talks to a server.</p>
<ul class="runs">{cards}</ul></main><script src="scripts/gallery.js"></script>"""
    return _page(title, f"<span>{say(title)}</span>", main)


def _page(title: str, name: str, main: str) -> str:
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'self' file: blob:; style-src 'self' file: 'unsafe-inline'; img-src 'self' file: data: blob:; base-uri 'none'; form-action 'none'">
<title>{html.escape(title)}</title><link rel="icon" href="favicon.svg"><link rel="stylesheet" href="gallery.css"></head>
<body class="gallery"><div class="gradio-container"><div class="live-header"><header class="shell">{name}<span class="grow"></span></header></div>
{main}</div></body></html>
"""  # noqa: E501


def _inert(value: Any) -> str:
    """JSON that no HTML parser takes for markup."""
    return _json(value).decode().replace("<", "\\u003c")


def _newest(store: Store) -> str:
    newest = store.runs(limit=1)
    if not newest:
        raise BadGallery(store.problem or "No run has been kept yet.")
    return newest[0].id

"""Live drawing: components that are updated in place, ten times a second, and keep what the reader did to them.

`gr.Plot` mounts anew on every update, so zoom, hover and scroll are lost. These components are `gr.HTML` with an
empty template: `js_on_load` builds their nodes once and `watch('value', …)` brings them up to date. A picture goes
through `Plotly.react` into the same node with a constant `uirevision`; token text is only ever `textContent`.

Values are JSON strings, or lists of JSON strings: Gradio sends the difference between two updates, and equal
strings cost it nothing, so an update of the text is the tokens from the first changed one on.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
import msgspec
import plotly

from playground.texts import TEXTS, languages, text, texts
from visuals.palette import dark_of
from visuals.picture import Drawing, Picture

ASSETS = Path(__file__).resolve().parents[2] / "assets"
SCRIPTS = sorted((ASSETS / "scripts").glob("*.js"), key=lambda file: (file.name != "live.js", file.name))
"""What the page runs: `live.js` first, every other file registers the kinds of components it draws."""
PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"

SHOWN_PROMPT = 400
"""Characters of the prompt above the text."""

Server = Callable[[dict[str, Any]], Any]


def url(file: Path) -> str:
    """Where the page finds a static file, relative to the page so that it also works behind a proxy."""
    return f"gradio_api/file={file}"


def serve_assets() -> str:
    """Lets Gradio serve the scripts and Plotly, and nothing else; returns what belongs into the page's head."""
    words = {language: TEXTS / f"{language}.json" for language in languages()}
    gr.set_static_paths([*SCRIPTS, *words.values(), PLOTLY])
    spoken = encode({language: _versioned(file) for language, file in words.items()})
    return "\n".join(
        [
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta name="playground-texts" content="{html.escape(spoken)}">',
            *(f'<script src="{_versioned(file)}"></script>' for file in SCRIPTS),
        ]
    )


def _versioned(file: Path) -> str:
    """The file's address, a new one whenever the file has changed, so that no browser keeps an old one."""
    return f"{url(file)}?{int(file.stat().st_mtime)}"


@cache
def spoken() -> gr.I18n:
    """The page's words for Gradio's own parts."""
    return gr.I18n(**{language: texts(language) for language in languages()})


def native(key: str) -> Any:
    """A text of `assets/texts` as the label or value of one of Gradio's own parts, said in the reader's language."""
    text(key)
    return spoken()(key)


def encode(value: Any) -> str:
    """JSON for a component's value."""
    return msgspec.json.encode(value).decode()


class Live(gr.HTML):
    """A component whose nodes are built once by `Playground.kinds[kind]`.

    `events` are the names that its script may trigger; they have to stand in `js_on_load` to be known to Gradio.
    """

    def __init__(
        self, kind: str, value: Any = "", *, events: tuple[str, ...] = (), server: tuple[Server, ...] = (), **props: Any
    ) -> None:
        # The script file or the words may still be on their way when the component is mounted.
        script = f"""
            const events = {json.dumps(events)};
            const mount = () => {{
                const kind = window.Playground?.kinds[{json.dumps(kind)}];
                if (!kind || !window.Playground.ready) return setTimeout(mount, 15);
                kind(element, {{ props, trigger, watch, server }});
            }};
            mount();
        """
        classes = props.pop("elem_classes", [])
        super().__init__(
            value,
            html_template="",
            js_on_load=script,
            apply_default_css=False,
            container=False,
            elem_classes=[f"live-{kind}", *classes],
            server_functions=[_plain(function) for function in server] or None,
            **props,
        )

    def postprocess(self, value: Any) -> Any:
        return value

    def get_block_name(self) -> str:
        return "html"


def _plain(function: Server) -> Server:
    """The same as a plain function: Gradio marks what the browser may call, and a bound method takes no mark."""

    def call(what: dict[str, Any]) -> Any:
        return msgspec.to_builtins(function(what))

    call.__name__ = function.__name__
    return call


class LivePlot(Live):
    """One picture: title, one line, expand, save, read; drawn by `Plotly.react`.

    Its server functions take one dict each; without `pick`, a picture of one guess always shows the same one.
    """

    def __init__(
        self,
        picture: str,
        value: str = "",
        *,
        table: Server,
        narrate: Server,
        see: Server,
        pick: Server | None = None,
        **props: Any,
    ) -> None:
        props |= {"picture": picture, "plotly": url(PLOTLY), "dark": dict(dark_of)}
        super().__init__("plot", value, server=(table, narrate, see, *([pick] if pick else [])), **props)


def plot_value(
    picture: Picture,
    figure: Drawing | None,
    *,
    run: str,
    step: int,
    order: int,
    relevant: bool = True,
    narration: str = "",
) -> str:
    """What a `LivePlot` shows: `figure` as its picture drew it, in the light theme's colours."""
    return encode(
        {
            "id": picture.id,
            "title": picture.title,
            "explains": picture.explains,
            "empty": picture.empty,
            "figure": encode({"data": figure["data"], "layout": figure["layout"]}) if figure else "",
            "min_width": figure.get("min_width", 0) if figure else 0,
            "picks": figure.get("picks") if figure else None,
            "run": run,
            "step": step,
            "order": order,
            "relevant": relevant,
            "narration": narration,
        }
    )


class TokenStream(Live):
    """The text, token by token. Triggers `branch` with run, position and token when an alternative is clicked."""

    def __init__(self, value: Mapping[str, Any] | None = None, **props: Any) -> None:
        super().__init__("tokens", value or {"head": "", "tokens": []}, events=("branch",), **props)


def stream_value(
    tokens: Sequence[str],
    *,
    run: str,
    title: str,
    prompt: str,
    live: bool,
    legend: Sequence[Mapping[str, str]],
    pending: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What a `TokenStream` shows; `tokens` are those of `visuals.token_stream`, each as JSON."""
    head = {
        "run": run,
        "title": title,
        "prompt": prompt if len(prompt) <= SHOWN_PROMPT else prompt[:SHOWN_PROMPT] + "…",
        "live": live,
        "legend": legend,
        "pending": pending,
    }
    return {"head": encode(head), "tokens": list(tokens)}


class Heading(Live):
    """A title, and a sentence that explains it."""

    def __init__(self, value: str = "", **props: Any) -> None:
        super().__init__("heading", value, **props)


class Numbers(Live):
    """Headline numbers, each with its definition."""

    def __init__(self, value: str = "", **props: Any) -> None:
        super().__init__("numbers", value, **props)


class Scrubber(Live):
    """Steps of a run. Triggers `step` with run, step and page."""

    def __init__(self, value: str = "", **props: Any) -> None:
        super().__init__("scrubber", value, events=("step",), **props)

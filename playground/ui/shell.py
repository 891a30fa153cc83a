"""The app: header, pages, footer, theme. `build()` makes the Blocks, `LAUNCH` is what `launch` must be told."""

from __future__ import annotations

from typing import Any

import gradio as gr

from playground import api
from playground.calm import calm_events
from playground.server import KEEP_UPLOADS
from playground.ui import circuits, compare, learn, models, play, rail, sessions, sweep
from playground.ui.house import House
from playground.ui.live import ASSETS, Live, Server, encode, serve_assets, spoken
from playground.ui.play import PRIVATE
from playground.ui.theme import stylesheet, theme

PAGES = ("play", "compare", "circuits", "sweep", "sessions", "learn", "models")
"""Ids of the pages, in the order of the header; `<id>.page` in `assets/texts` is a page's name."""


class Header(Live):
    """Name, pages, model, people. Triggers `turn` when another page is shown and `loaded` when a model was."""

    def __init__(self, status: Server, value: str = "", **props: Any) -> None:
        props |= {"pages": encode(PAGES)}
        super().__init__("header", value, events=("turn", "loaded"), server=(status,), **props)


class PageId(Live):
    """Carries the id that the browser page gave itself."""

    def __init__(self, value: str = "", **props: Any) -> None:
        super().__init__("page-id", value, **props)


def build(house: House) -> gr.Blocks:
    """The whole app, not launched."""
    with gr.Blocks(
        title="Decoding Playground", analytics_enabled=False, fill_width=True, delete_cache=KEEP_UPLOADS
    ) as app:
        api.build(house)  # first, because a name goes to whoever asks first
        header = Header(house.status)
        page = PageId()
        playing = play.build(house, page)
        compare.build(house, playing, page, header)
        circuits.build(house, playing, page, header)
        sweep.build(house, playing, page, header)
        sessions.build(house, playing, page)
        learn.build(house, playing, page)
        precision, costs = models.build(house)
        method = playing.rail[0]
        gr.HTML(FOOTER, padding=False, elem_classes=["foot"])

        def model_changed(method: str) -> tuple[Any, ...]:
            picker = rail.method_picker(house.methods, rail.selected(method), house.resident.has, keep=True)
            return picker, *models.precisions(house)

        def opened(owner: str, request: gr.Request) -> list[Any]:
            return play.opened(house, owner, request)

        header.loaded(model_changed, method, [method, precision, costs], queue=False, **PRIVATE)
        shown = [playing.owner, playing.notice, *playing.rail, *playing.outputs]
        app.load(opened, playing.owner, shown, queue=False, **PRIVATE)
    calm_events(app)
    return app


FOOTER = """<footer class='shell-foot'><span>Decoding Playground</span><span class='kept'></span></footer>"""
"""The header's script says in it whether runs are kept."""


def launch_options() -> dict[str, Any]:
    """Theme, styles and scripts for `app.launch(…)`."""
    return {
        "theme": theme(),
        # In the head, because `css=` would be scoped to Gradio's container, which the page's states are outside of.
        "head": f"{serve_assets()}<style>{stylesheet()}</style>",
        "footer_links": [],
        "i18n": spoken(),
        "favicon_path": str(ASSETS / "favicon.svg"),
        "show_error": False,
        # One for everybody who decodes or stands in line, and some for those who look around.
        "max_threads": 160,
    }

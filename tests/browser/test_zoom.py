"""What the reader did to a picture outlives its updates: one component, one node, fifty updates."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest
from playwright.sync_api import BrowserContext, Page

from playground.ui.live import LivePlot, plot_value
from playground.ui.shell import launch_options
from tests.browser.conftest import free_port
from visuals.picture import Picture

pytestmark = pytest.mark.browser
UPDATES = 50

PICTURE = Picture(
    id="demo",
    title="Demo",
    explains="A line that grows.",
    empty="Nothing yet.",
    draw=lambda events: None,
    table=lambda events: [{"x": 1, "y": 'a "quoted", cell'}],
    narrate=lambda events: "The line grows.",
    relevant=lambda events: True,
)


def value(points: int) -> str:
    """The picture with so many points."""
    line = {"type": "scatter", "x": list(range(points)), "y": [x % 7 for x in range(points)]}
    layout = {"height": 260, "margin": {"l": 30, "r": 10, "t": 10, "b": 30}, "font": {"color": "#1c1e21"}}
    figure = {"kind": "plotly", "data": [line], "layout": layout}
    return plot_value(PICTURE, figure, run="run", step=points, order=0)


@pytest.fixture(scope="module")
def demo() -> Iterator[str]:
    """A page with one `LivePlot` and a button that updates it fifty times."""

    def grow() -> Iterator[str]:
        for points in range(11, 11 + UPDATES):
            time.sleep(0.05)
            yield value(points)

    def nothing(what: dict[str, Any]) -> Any:
        return [["x", "y"], [1, 'a "quoted", cell']] if "picture" in what else None

    def narrate(what: dict[str, Any]) -> str:
        return "The line grows."

    def table(what: dict[str, Any]) -> Any:
        return nothing(what)

    def see(what: dict[str, Any]) -> None:
        return None

    with gr.Blocks(analytics_enabled=False) as blocks:
        plot = LivePlot("demo", value(10), table=table, narrate=narrate, see=see)
        gr.Button("grow", elem_id="grow").click(grow, None, plot, api_visibility="private", postprocess=False)
    _, address, _ = blocks.launch(
        prevent_thread_lock=True, quiet=True, server_port=free_port(), **launch_options(), ssr_mode=False
    )
    yield address
    blocks.close()


@pytest.fixture
def plot(context: BrowserContext, demo: str) -> Page:
    page = context.new_page()
    page.goto(demo)
    page.wait_for_selector(".canvas .plot-container")
    page.wait_for_function("document.querySelector('.canvas')._fullLayout?.xaxis?.range")
    return page


def x_range(page: Page) -> list[float]:
    return page.evaluate("document.querySelector('.canvas')._fullLayout.xaxis.range.slice()")


def updates(page: Page) -> int:
    return page.evaluate("Number(document.querySelector('.canvas').dataset.updates)")


def test_zoom_survives_fifty_updates_in_the_same_node(plot: Page) -> None:
    before = x_range(plot)
    box = plot.locator(".canvas .nsewdrag").bounding_box()
    assert box is not None
    plot.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.3)
    plot.mouse.down()
    plot.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.7, steps=6)
    plot.mouse.up()
    plot.wait_for_timeout(400)
    zoomed = x_range(plot)
    assert zoomed != before
    plot.evaluate(
        "window.node = document.querySelector('.canvas'); window.drawn = window.node.querySelector('.main-svg')"
    )
    first = updates(plot)
    plot.click("#grow")
    plot.wait_for_function(f"Number(document.querySelector('.canvas').dataset.updates) >= {first + UPDATES}")
    assert updates(plot) == first + UPDATES
    assert x_range(plot) == zoomed
    assert plot.evaluate("window.node === document.querySelector('.canvas') && window.drawn.isConnected")
    assert plot.evaluate("document.querySelector('.canvas').data[0].x.length") == 10 + UPDATES


def test_without_zoom_the_axis_follows_the_data(plot: Page) -> None:
    before = x_range(plot)
    plot.click("#grow")
    plot.wait_for_function(f"document.querySelector('.canvas').data[0].x.length === {10 + UPDATES}")
    assert x_range(plot)[1] > before[1]


def test_dark_theme_replaces_colours_while_open(plot: Page) -> None:
    colour = "document.querySelector('.canvas')._fullLayout.font.color"
    assert plot.evaluate(colour) == "#1c1e21"
    plot.evaluate("document.body.classList.add('dark')")
    plot.wait_for_function(f"{colour} === '#eceae4'")
    plot.evaluate("document.body.classList.remove('dark')")
    plot.wait_for_function(f"{colour} === '#1c1e21'")


def test_expand_fills_the_window_and_escape_closes_it(plot: Page) -> None:
    plot.get_by_role("button", name="expand").click()
    box = plot.locator(".picture").bounding_box()
    assert box is not None
    assert (round(box["width"]), round(box["height"])) == (1366, 768)
    plot.keyboard.press("Escape")
    assert plot.locator(".picture.expanded").count() == 0


@pytest.mark.parametrize(("kind", "begins"), [("PNG", b"\x89PNG"), ("SVG", b"<svg"), ("CSV", b"x,y")])
def test_save(plot: Page, kind: str, begins: bytes) -> None:
    plot.get_by_role("button", name="save").click()
    with plot.expect_download() as waiting:
        plot.get_by_role("menuitem", name=kind).click()
    data = waiting.value.path().read_bytes()
    assert data.startswith(begins)
    if kind == "CSV":
        assert data.decode() == 'x,y\r\n1,"a ""quoted"", cell"'


def test_read_says_the_picture_in_words(plot: Page) -> None:
    plot.get_by_role("button", name="read").click()
    plot.wait_for_function("document.querySelector('.narration').textContent === 'The line grows.'")
    assert plot.locator(".narration").get_attribute("aria-live") == "polite"

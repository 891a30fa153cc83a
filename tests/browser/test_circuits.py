"""The Circuits page with the real model: ask, weigh, look into a head, patch it, mark, reload, take along."""

from __future__ import annotations

import json
from pathlib import Path

import networkx
import pytest
from playwright.sync_api import Page, Route, expect

pytestmark = pytest.mark.browser

GRAPH = ".page-circuits [data-picture='circuit-graph']"
NAME = "<img src=x onerror=alert(1)> movers"


@pytest.fixture
def loaded(page: Page) -> Page:
    page.wait_for_function("document.querySelector('.chip.model').textContent.includes('float32')", timeout=120_000)
    return page


def weighed(page: Page) -> float:
    """Waits until exactly what is on screen has been measured; its faithfulness."""
    page.wait_for_function(
        "!document.querySelector('.circuit-tools.busy') && document.querySelector('#circuit-faithfulness')"
        ".textContent !== '–'",
        timeout=60_000,
    )
    return float(page.inner_text("#circuit-faithfulness").replace("−", "-"))


def slide(page: Page, **sliders: int) -> None:
    for name, value in sliders.items():
        page.locator(f"#circuit-{name}").fill(str(value))
    page.wait_for_selector(".circuit-tools.busy")


def test_a_circuit_is_asked_for_weighed_looked_into_marked_and_found_again(loaded: Page, tmp_path: Path) -> None:
    page = loaded
    page.click("header nav a[data-page='circuits']")
    expect(page.locator(f"{GRAPH} .textpoint").first).to_be_attached()
    expect(page.locator(".trust-line")).to_contain_text("A recorded run")
    assert "run=" not in page.url
    page.fill("#circuit-pairs", "2")
    page.click("#circuit-run")
    page.wait_for_url("**/?view=circuits&run=*", timeout=60_000)
    run = page.evaluate("new URL(location.href).searchParams.get('run')")
    few = weighed(page)
    slide(page, nodes=100, edges=600)
    assert weighed(page) > few
    page.click("#circuit-stop")
    # A click on a head in the picture: its place is asked of Plotly.
    place = page.evaluate(
        """() => {
            const canvas = document.querySelector(".page-circuits [data-picture='head-map'] .canvas");
            canvas.scrollIntoView({ block: "center" });
            const heads = canvas.data.find((trace) => trace.ids);
            const at = heads.ids.indexOf("a23.3");
            const { _size: size, xaxis, yaxis } = canvas._fullLayout;
            const box = canvas.getBoundingClientRect();
            return [box.left + size.l + xaxis.l2p(heads.x[at]), box.top + size.t + yaxis.l2p(heads.y[at])];
        }"""
    )
    page.mouse.move(*place)
    page.mouse.click(*place)
    node = page.locator(".circuit-node")
    expect(node.locator("h3")).to_have_text("a23.3: head 3 of layer 23")
    expect(node).to_contain_text("Shares keys and values with a23.4, a23.5", timeout=30_000)
    expect(page.locator("[data-picture='attention-pattern'] .heatmaplayer .hm")).to_be_attached()
    page.click("#circuit-patch")
    expect(node.locator(".patched")).to_contain_text("measured +", timeout=30_000)
    page.click("#circuit-pin")
    page.fill("#circuit-group", NAME)
    page.click("#circuit-put")
    weighed(page)
    expect(page.locator(".circuit-parts .groups b")).to_have_text(NAME)
    page.reload()
    expect(page.locator(".circuit-parts .groups b")).to_have_text(NAME, timeout=30_000)
    expect(page.locator(".parts .pinned")).to_contain_text("a23.3")
    expect(page.locator("#circuit-nodes")).to_have_value("100")
    expect(page.locator("#circuit-pairs")).to_have_value("2")
    assert page.evaluate("new URL(location.href).searchParams.get('run')") == run
    for kind in ("json", "graphml"):
        with page.expect_download() as saved:
            page.click(f"#circuit-save-{kind}")
        saved.value.save_as(tmp_path / kind)
    assert json.loads((tmp_path / "json").read_text())["groups"] == {NAME: ["a23.3"]}
    assert networkx.read_graphml(tmp_path / "graphml").nodes["a23.3"]["measured"] > 0
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_why_this_token_and_not_that_one(loaded: Page) -> None:
    page = loaded
    page.locator(".page-play .tok[data-index='3']").click()
    page.locator(".popover .why-link").click()
    expect(page.locator(".circuit-about .question, .page-circuits .message.problem").first).to_be_visible(
        timeout=60_000
    )
    page.wait_for_url("**run=*", timeout=60_000)
    expect(page.locator("#circuit-task")).to_have_value("this prompt")
    expect(page.locator(".given-tokens")).to_contain_text("(3 tokens)")
    page.click("#circuit-stop")


def test_the_shipped_example_does_not_overwrite_a_question_that_was_begun(loaded: Page) -> None:
    page, held = loaded, []

    def late(route: Route) -> None:
        held.append(route) if "recorded-relp-ioi" in (route.request.post_data or "") else route.continue_()

    page.route("**/gradio_api/**", late)
    page.click("header nav a[data-page='circuits']")
    page.select_option("#circuit-task", "this prompt")
    page.fill("#circuit-clean", "The capital of France is")
    page.wait_for_timeout(500)
    assert held, "the example was asked for"
    for route in held:
        route.continue_()
    expect(page.locator(f"{GRAPH} .textpoint").first).to_be_attached()
    expect(page.locator("#circuit-task")).to_have_value("this prompt")
    expect(page.locator("#circuit-clean")).to_have_value("The capital of France is")


def test_prompts_that_cannot_be_compared_are_answered_before_anything_runs(loaded: Page) -> None:
    page = loaded
    page.click("header nav a[data-page='circuits']")
    page.select_option("#circuit-task", "this prompt")
    page.fill("#circuit-clean", "The capital of France is")
    page.fill("#circuit-corrupted", "The capital of Liechtenstein is")
    expect(page.locator(".circuit-form .told")).to_contain_text("position by position they cannot be compared")
    page.fill("#circuit-corrupted", "The capital of Italy is")
    expect(page.locator(".circuit-form .told")).to_be_empty()
    expect(page.locator(".circuit-form .aligned-tokens tbody td.differs")).to_have_count(2)

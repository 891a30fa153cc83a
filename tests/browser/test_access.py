"""For everyone: what axe finds, what the keyboard reaches, what another language, a phone and less motion change."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from playground.texts import texts
from playground.ui.shell import PAGES

pytestmark = pytest.mark.browser
WCAG = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}


def opened(page: Page, server: str, view: str, query: str = "") -> Page:
    page.goto(f"{server}?view={view}{query}")
    page.wait_for_selector(f"body[data-page='{view}'] .page-{view}")
    page.wait_for_load_state("networkidle")
    return page


def violations(page: Page) -> list[str]:
    """What axe finds, one line per element."""
    found = Axe().run(page, options=WCAG).response["violations"]
    return [f"{one['id']}: {node['target']} {node['failureSummary']}" for one in found for node in one["nodes"]]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", PAGES)
def test_axe_finds_nothing_to_complain_about(page: Page, server: str, view: str, theme: str) -> None:
    opened(page, server, view, f"&__theme={theme}")
    assert violations(page) == []


@pytest.mark.parametrize("width", [390, 1366])
@pytest.mark.parametrize("view", PAGES)
def test_no_page_scrolls_sideways(page: Page, server: str, view: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 768})
    opened(page, server, view)
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


def test_the_keyboard_alone_reaches_run(page: Page) -> None:
    page.keyboard.press("Tab")
    reached = []
    for _ in range(40):
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.slice(0, 30)"))
        if reached[-1] == "run":
            break
        assert page.evaluate(
            "(() => { const s = getComputedStyle(document.activeElement);"
            " return s.outlineStyle !== 'none' || s.boxShadow !== 'none' || s.borderColor !== '' })()"
        )
        page.keyboard.press("Tab")
    assert reached[-1] == "run", reached


@pytest.mark.parametrize("view", PAGES)
def test_another_language_is_spoken_everywhere(browser: Browser, server: str, view: str) -> None:
    context = browser.new_context(locale="de-DE")
    page = opened(context.new_page(), server, view)
    expect(page.locator("html")).to_have_attribute("lang", "de")
    expect(page.locator("header.shell nav a[aria-current=page]")).not_to_have_text("")
    said = page.locator(f".page-{view}").inner_text()
    # A key that has no text would be shown as it is.
    sections = "|".join({key.partition(".")[0] for key in texts("en")})
    assert re.findall(rf"\b(?:{sections})\.[a-z][\w-]+", said) == []
    context.close()


def test_the_language_can_be_chosen_and_is_remembered(page: Page, server: str) -> None:
    expect(page.locator("#run")).to_have_text("Run")
    page.locator(".shell-foot select").select_option("de")
    expect(page.locator("#run")).to_have_text("Start")
    page.goto(server)
    expect(page.locator("#run")).to_have_text("Start")
    expect(page.locator(".page-play .scrubber .step-label")).to_have_text(re.compile(r"Schritt \d+ von \d+"))


def test_less_motion_means_none(browser: Browser, server: str) -> None:
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.goto(server)
    page.wait_for_selector(".tok")
    moving = "[...document.querySelectorAll('*')].filter(e => getComputedStyle(e).animationName !== 'none').length"
    assert page.evaluate(moving) == 0
    context.close()

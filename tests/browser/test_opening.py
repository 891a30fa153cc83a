"""Before any model is loaded: a recorded run that plays and steps, in every theme and width."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


def step(page: Page) -> tuple[int, int]:
    found = re.match(r"step (\d+) of (\d+)", page.inner_text(".page-play .step-label"))
    assert found
    return int(found[1]), int(found[2])


def test_opens_on_a_finished_recorded_run(page: Page) -> None:
    assert page.locator(".page-play .tok").count() > 20
    now, last = step(page)
    assert now == last > 10
    assert page.inner_text(".page-play .scrubber .status") == "recorded"
    assert page.locator(".page-play .numbers dd").count() == 5
    assert page.locator(".page-play .numbers dt").all_inner_texts()[0] == "tokens per target pass"
    page.wait_for_selector(".picture .plot-container")
    shown = page.locator(".live-plot.block:not(.irrelevant) .picture").evaluate_all(
        "all => all.map(p => p.dataset.picture)"
    )
    assert "draft-tree" in shown
    assert "beam-tree" not in shown


def test_steps_back_and_forth_with_keys_and_buttons(page: Page) -> None:
    _, last = step(page)
    tokens = page.locator(".page-play .tok[data-index]").count()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".page-play .step-label")).to_have_text(f"step {last - 1} of {last}")
    page.wait_for_function(f"document.querySelectorAll('.tok[data-index]').length < {tokens}")
    page.get_by_role("button", name="one step back").click()
    expect(page.locator(".page-play .step-label")).to_have_text(f"step {last - 2} of {last}")
    page.get_by_role("button", name="one step on").click()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"document.querySelectorAll('.tok[data-index]').length === {tokens}")
    page.evaluate(
        "const r = document.querySelector('.scrubber input'); r.value = 0; r.dispatchEvent(new Event('input'))"
    )
    page.wait_for_function("document.querySelectorAll('.tok[data-index]').length === 0")


def test_plays_by_itself(page: Page) -> None:
    page.get_by_role("button", name="play").click()
    page.wait_for_function("Number(document.querySelector('.step-label').textContent.split(' ')[1]) === 3")
    page.get_by_role("button", name="pause").click()


def test_a_token_says_why_it_is_there(page: Page) -> None:
    token = page.locator(".page-play .tok[data-index='4']")
    token.hover()
    page.wait_for_selector(".popover:not([hidden])")
    text = page.inner_text(".page-play .popover")
    assert "entropy" in text
    assert "step" in text
    assert page.locator(".page-play .popover .alt").count() > 5
    page.keyboard.press("Escape")
    token.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.index") == "5"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.matches('.popover button.alt')")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.index") == "5"


def test_methods_are_grouped_searchable_and_bring_their_controls(page: Page) -> None:
    page.click("#method .chosen")
    groups = page.locator("#method .group-title").all_inner_texts()
    assert groups[0] == "Baselines"
    assert len(groups) > 1
    page.fill("#method .search", "prompt look")
    expect(page.locator("#method .option")).to_have_count(1)
    page.keyboard.press("Enter")
    expect(page.locator("#method .chosen b")).to_have_text("Prompt lookup")
    expect(page.locator("#set-guesses")).to_have_attribute("placeholder", "auto")
    expect(page.locator(".method-card .badge")).to_contain_text("lossless")
    chip = page.locator(".prompt-tools .live-chips button").first
    prompt = chip.get_attribute("title") or ""
    assert prompt
    chip.click()
    page.wait_for_function("start => document.querySelector('#prompt textarea').value.startsWith(start)", arg=prompt)


def test_run_stays_in_sight_on_a_small_laptop(page: Page) -> None:
    for name in ("#run", "#stop"):
        box = page.locator(name).bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 768


@pytest.mark.parametrize("width", [390, 768, 1366])
def test_never_scrolls_sideways(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    page.wait_for_timeout(600)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_pages_are_links_and_come_back(page: Page) -> None:
    page.get_by_role("link", name="Models").click()
    expect(page.locator(".page-models")).to_be_visible()
    expect(page.locator(".page-play")).to_be_hidden()
    page.reload()
    expect(page.locator(".page-models")).to_be_visible()
    page.get_by_role("link", name="Sessions").click()
    expect(page.locator(".sessions h2").first).to_have_text("Your runs")
    page.go_back()
    page.go_back()
    expect(page.locator(".page-play")).to_be_visible()


def test_recorded_runs_are_listed_and_open(page: Page) -> None:
    page.get_by_role("link", name="Sessions").click()
    page.locator(".session[href='?run=recorded-prompt-lookup']").click()
    expect(page.locator(".page-play .asked-label")).to_have_text("Prompt lookup")
    expect(page.locator("#method .chosen b")).to_have_text("Prompt lookup")
    assert page.locator(".page-play .tok.copied").count() > 5


PAIRS = """() => {
  const solid = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (!/rgba\\(.*, 0\\)$/.test(colour) && colour !== 'transparent') return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const all = '.tok, .legend li, .numbers dt, .numbers dd, .chip, .idea, .badge, .picture h3, .explains, .label, '
    + '.tools button, .step-label, .status, nav a, #run, #stop, .field label, summary, .shell-foot span, .asked';
  return [...document.querySelectorAll(all)]
    .filter((node) => node.offsetParent && node.textContent.trim())
    .map((node) => [node.className, node.textContent.slice(0, 20), getComputedStyle(node).color, solid(node)]);
}"""
"""Words on the page with the colours that they are seen in."""


def ratio(foreground: str, background: str) -> float:
    """WCAG contrast of two `rgb(…)` colours."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(foreground), luminance(background)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_are_readable(page: Page, server: str, theme: str) -> None:
    page.goto(f"{server}?__theme={theme}")
    page.wait_for_selector(".tok.accepted")
    pairs = page.evaluate(PAIRS)
    assert len(pairs) > 50
    poor = [(name, text, front, back) for name, text, front, back in pairs if ratio(front, back) < 4.5]
    assert poor == []

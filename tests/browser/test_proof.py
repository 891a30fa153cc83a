"""The proof strip and the X-ray of one guess, in a real browser with the real model."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

XRAY = "[data-picture='rejection-xray']"
TREE = "[data-picture='draft-tree']"
JUDGED = f"""() => {{
  const canvas = document.querySelector("{TREE} .canvas");
  const points = canvas.data?.find((trace) => trace.ids);
  return (points?.ids ?? []).filter(Boolean);
}}"""
WHERE = f"""(id) => {{
  const canvas = document.querySelector("{TREE} .canvas");
  const points = canvas.data.find((trace) => trace.ids);
  const at = points.ids.indexOf(id);
  const {{ xaxis, yaxis, _size }} = canvas._fullLayout;
  const box = canvas.getBoundingClientRect();
  return [box.left + _size.l + xaxis.c2p(points.x[at]), box.top + _size.t + yaxis.c2p(points.y[at])];
}}"""


@pytest.fixture
def ready(page: Page) -> Page:
    """The page with the model loaded, set to token recycling on a short text that repeats itself."""
    page.wait_for_function("document.querySelector('.chip.model').textContent.includes('float32')", timeout=120_000)
    page.click("#method .chosen")
    page.locator("#method .option[data-id='token-recycling']").click()
    page.wait_for_timeout(300)
    page.fill("#set-max_new_tokens", "24")
    page.fill("#prompt textarea", "Tell me a long story about a fox and a hen.")
    return page


def setting(page: Page, name: str, value: str) -> None:
    if not page.locator(f"#set-{name}").is_visible():
        page.click("details.more > summary")
    page.fill(f"#set-{name}", value)
    page.keyboard.press("Tab")


def run(page: Page) -> None:
    before = page.url
    page.click("#run")
    page.wait_for_function(
        "url => location.href !== url && !document.querySelector('.page-play .scrubber.live')", arg=before
    )


def test_a_run_is_checked_when_it_has_ended_and_its_proof_is_remembered(ready: Page) -> None:
    run(ready)
    strip = ready.locator(".proof")
    expect(strip).to_contain_text("Identical to plain decoding, all 24 tokens.", timeout=30_000)
    strip.get_by_role("button", name="What was done?").click()
    expect(strip.locator(".proof-how")).to_contain_text("24 tokens were compared")
    ready.reload()
    expect(strip).to_contain_text("Identical to plain decoding, all 24 tokens.", timeout=15_000)


def test_a_recorded_run_offers_the_check(ready: Page) -> None:
    strip = ready.locator(".proof")
    button = strip.get_by_role("button", name="check", exact=True)
    if button.is_visible():  # another test may have had it checked
        expect(strip).to_contain_text("Not checked against plain decoding yet.")
        button.focus()
        ready.keyboard.press("Enter")
    expect(strip).to_contain_text("plain decoding, all", timeout=60_000)


def test_methods_that_change_the_output_have_nothing_to_prove(ready: Page) -> None:
    ready.click("#method .chosen")
    ready.locator("#method .option[data-id='sampling']").click()
    ready.wait_for_timeout(300)
    ready.fill("#set-max_new_tokens", "4")
    run(ready)
    expect(ready.locator(".proof")).to_contain_text("this method changes the output by purpose")


def test_sampling_is_checked_by_its_distribution(ready: Page) -> None:
    setting(ready, "temperature", "0.9")
    run(ready)
    strip = ready.locator(".proof")
    expect(strip).to_contain_text("of 2000 draws", timeout=15_000)
    expect(strip.locator(".meter")).to_be_visible()
    expect(strip).to_contain_text("Consistent with the exact distribution.", timeout=60_000)
    expect(strip).to_contain_text("χ²")


def test_a_click_in_the_tree_shows_that_guess_in_the_xray(ready: Page) -> None:
    ready.emulate_media(reduced_motion="reduce")  # the page scrolls to the X-ray: the tree must not move under a click
    setting(ready, "temperature", "0.9")
    setting(ready, "nodes", "8")
    run(ready)
    # Back to a step with at least two judged guesses.
    for _ in range(24):
        if len(ready.evaluate(JUDGED)) > 1:
            break
        ready.click(".scrubber button >> nth=0")
        ready.wait_for_timeout(400)
    first, *_, last = ready.evaluate(JUDGED)
    for place, id in ((1, first), (len(ready.evaluate(JUDGED)), last)):
        ready.evaluate(f"document.querySelector(\"{TREE}\").scrollIntoView({{block: 'center'}})")
        x, y = ready.evaluate(WHERE, id)
        ready.mouse.click(x, y)
        expect(ready.locator(f"{XRAY} .picked")).to_contain_text(f"guess {place} of")
        assert ready.evaluate(f'document.querySelector("{TREE} .canvas").layout.shapes.length') == 1
    expect(ready.locator(f"{XRAY} .narration")).to_contain_text("The coin showed u =")

    ready.locator(f"{XRAY} .pick button").first.focus()
    ready.keyboard.press("Enter")
    expect(ready.locator(f"{XRAY} .picked")).not_to_contain_text(f"guess {len(ready.evaluate(JUDGED))} of")
    step = ready.inner_text(".scrubber .step-label")
    ready.keyboard.press("ArrowRight")
    expect(ready.locator(f"{XRAY} .picked")).to_contain_text(f"guess {len(ready.evaluate(JUDGED))} of")
    assert ready.inner_text(".scrubber .step-label") == step, "the arrow belongs to the guesses"

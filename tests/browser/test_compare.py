"""The Compare page with the real model: race, results, replay, address, stop."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.browser

expect.set_options(timeout=20_000)

PROMPT = "Say <b>red</b>, blue, red, blue, red."
kept: list[str] = []
"""The address of the one comparison that most tests look at."""


def opened(page: Page, server: str) -> Page:
    """The Compare page, with the model there."""
    page.goto(f"{server}?view=compare")
    page.wait_for_function("document.querySelector('.chip.model')?.textContent.includes('float32')", timeout=120_000)
    return page


def choose(page: Page, place: int, method: str) -> None:
    page.click(f"#contestant-{place} .chosen")
    page.locator(f"#contestant-{place} .option[data-id='{method}']").click()
    page.wait_for_timeout(400)


def asked(page: Page, tokens: int, rounds: int) -> None:
    page.fill("#compare-prompt textarea", PROMPT)
    page.fill("#compare-max_new_tokens", str(tokens))
    page.fill("#compare-rounds", str(rounds))


@pytest.fixture
def compared(page: Page, server: str) -> Page:
    """Greedy, prompt lookup and hot sampling, two rounds of ten tokens, finished."""
    if kept:
        page.goto(kept[0])
    else:
        opened(page, server)
        choose(page, 2, "sampling")
        page.click("#contestant-2 details.more > summary")
        page.fill("#contestant-2-temperature", "2")
        asked(page, 10, 2)
        page.click("#compare-run")
        page.wait_for_selector(".lane.running", timeout=20_000)
        page.wait_for_selector(".race-numbers:not([hidden])", timeout=120_000)
        page.wait_for_url(re.compile("comparison="))
        kept.append(page.url)
    page.wait_for_selector(".race-numbers:not([hidden])")
    return page


def test_lanes_grow_results_follow_and_the_address_brings_them_back(compared: Page) -> None:
    assert compared.locator(".lane").count() == 3
    expect(compared.locator(".lane >> nth=0")).to_contain_text("the baseline")
    expect(compared.locator(".lane >> nth=1")).to_contain_text("Same output as A, all 10 tokens")
    expect(compared.locator(".lane >> nth=1 >> .headline")).to_contain_text("times as fast as A")
    expect(compared.locator(".lane >> nth=1 >> .headline")).to_contain_text("over 2 rounds")
    expect(compared.locator(".lane >> nth=2")).to_contain_text("Different by purpose")
    expect(compared.locator(".asked-prompt:visible")).to_have_text(PROMPT)
    texts = compared.locator(".lane-text").all_inner_texts()
    compared.reload()
    compared.wait_for_selector(".race-numbers:not([hidden])")
    assert compared.locator(".lane-text").all_inner_texts() == texts
    expect(compared.locator("#contestant-2 .chosen b")).to_have_text("Sampling")
    expect(compared.locator("#compare-prompt textarea")).to_have_value(PROMPT)
    expect(compared.locator("#compare-rounds")).to_have_value("2")
    assert compared.locator("#contestant-2-temperature").input_value() == "2"


def test_the_first_difference_is_marked_by_a_sign(compared: Page) -> None:
    marked = compared.locator(".lane >> nth=2 >> .first-difference")
    assert marked.count() == 1
    assert "≠" in marked.evaluate("node => getComputedStyle(node, '::before').content")
    assert compared.locator(".lane >> nth=1 >> .first-difference").count() == 0
    expect(compared.locator(".places thead b").first).to_have_text("≠")
    cells = compared.locator(".places tbody tr")
    assert cells.count() == 3
    assert "differs" not in (cells.nth(1).inner_html())


def test_the_replay_shows_what_was_decided_by_then(compared: Page) -> None:
    replay = compared.locator(".replay input[type=range]")
    replay.evaluate("range => { range.value = 0; range.dispatchEvent(new Event('input')) }")
    assert compared.locator(".lane-text .tok:not(.ahead)").count() == 0
    replay.focus()
    replay.press("ArrowRight")
    assert compared.locator(".lane-text .tok:not(.ahead)").count() >= 1
    compared.locator(".replay select").select_option("4")
    compared.click(".replay .play")
    compared.wait_for_function("!document.querySelector('.lane-text .ahead')", timeout=30_000)
    expect(compared.locator(".lane-state >> nth=0")).to_contain_text("10 tokens in")


def test_nothing_moves_by_itself_for_those_who_asked_for_that(browser: Browser, compared: Page) -> None:
    context = browser.new_context(reduced_motion="reduce", viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto(compared.url)
    page.wait_for_selector(".race-numbers:not([hidden])")
    expect(page.locator(".replay .play")).to_be_hidden()
    expect(page.locator(".replay input[type=range]")).to_be_visible()
    expect(page.locator(".earlier-comparisons")).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def test_the_axis_can_be_switched_and_the_draft_thought_cheaper(compared: Page) -> None:
    axis = compared.locator("[data-picture='versus-progress'] .xtitle")
    expect(axis).to_have_text("target passes")
    compared.get_by_text("seconds", exact=True).click()
    expect(axis).to_have_text("seconds")
    theory = compared.locator("[data-picture='versus-theory']")
    compared.focus("#versus-cheaper")
    compared.keyboard.press("ArrowRight")
    expect(compared.locator(".cheaper output")).to_have_text("2 times cheaper")
    theory.get_by_role("button", name="read").click()
    expect(theory.locator(".narration")).to_contain_text("there is no draft model")


def test_a_lane_opens_its_run_in_play(compared: Page) -> None:
    text = compared.inner_text(".lane-text >> nth=1")
    compared.locator(".lane-open >> nth=1").click()
    expect(compared.locator(".page-play")).to_be_visible()
    compared.wait_for_url(re.compile("run="))
    expect(compared.locator(".page-play .tokens")).to_have_text(text)
    expect(compared.locator("#method .chosen b")).to_have_text("Prompt lookup")
    assert "comparison=" not in compared.url


def test_stop_ends_the_race_and_says_what_counts(page: Page, server: str) -> None:
    opened(page, server)
    asked(page, 400, 9)
    page.click("#compare-run")
    page.wait_for_function("document.querySelectorAll('.lane-text .tok').length > 2", timeout=60_000)
    page.click("#compare-stop")
    expect(page.locator(".page-compare .message")).to_contain_text("Stopped before everyone", timeout=20_000)
    count = page.locator(".lane-text .tok").count()
    page.wait_for_timeout(600)
    assert page.locator(".lane-text .tok").count() == count < 400
    assert "comparison=" not in page.url


def test_a_forged_address_and_a_bad_number_are_answered_calmly(page: Page, server: str) -> None:
    page.goto(f"{server}?view=compare&comparison=%3Cscript%3E")
    expect(page.locator(".page-compare .message")).to_contain_text("There is no comparison called")
    page.fill("#compare-rounds", "many")
    page.click("#compare-run")
    expect(page.locator(".page-compare .message")).to_contain_text("Rounds must be a whole number")

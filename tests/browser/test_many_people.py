"""Several people, tabs and fingers at once: nothing lost, nobody left waiting without a word."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.conftest import ROOT, free_port, wait_for

pytestmark = pytest.mark.browser
SLOW = 60_000
ENDED = re.compile("token limit|end of text")
ENDLESS = ("1, 2, 3, 4, 5, 6, 7, 8,", 500)
"""A raw prompt that greedy decoding never comes to the end of, and as many tokens as the page offers."""


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server on which one person at a time decodes, and prompts are short."""
    folder, port = tmp_path_factory.mktemp("narrow"), free_port()
    environment = os.environ | {
        "DECODING_PLAYGROUND_DATA": str(folder),
        "DECODING_PLAYGROUND_PEOPLE_AT_ONCE": "1",
        "DECODING_PLAYGROUND_PROMPT_CHARACTERS": "1000",
        "DECODING_PLAYGROUND_STORED_RUNS": "2",
        "GRADIO_SERVER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    log = (folder / "log").open("w")
    process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/", process, folder / "log")
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(10)
        log.close()


@pytest.fixture
def people(browser: Browser) -> Iterator[list[BrowserContext]]:
    """Two browsers that know nothing of each other."""
    contexts = [browser.new_context(viewport={"width": 1366, "height": 768}) for _ in range(2)]
    for context in contexts:
        context.set_default_timeout(SLOW)
    yield contexts
    for context in contexts:
        context.close()


def opened(context: BrowserContext, server: str) -> Page:
    page = context.new_page()
    page.goto(server)
    page.wait_for_selector(".tok")
    page.wait_for_function("document.querySelector('.chip.model').textContent.includes('float32')", timeout=120_000)
    page.click("#method .chosen")
    page.locator("#method .option[data-id='greedy']").click()
    page.wait_for_timeout(300)
    return page


def press_run(page: Page, prompt: str, tokens: int, *, raw: bool = False) -> None:
    if raw:
        page.click("details.more > summary")
        page.check("#set-raw")
    page.fill("#set-max_new_tokens", str(tokens))
    page.fill("#prompt textarea", prompt)
    page.click("#run")


def runs(page: Page) -> list[str]:
    """The prompts of one's runs, newest first."""
    page.get_by_role("link", name="Sessions").click()
    expect(page.locator(".page-sessions .prompt:visible").first).not_to_be_empty(timeout=SLOW)
    page.wait_for_timeout(1500)
    prompts = page.locator(".page-sessions .prompt").all_inner_texts()
    page.get_by_role("link", name="Play", exact=True).click()
    return [prompt for prompt in prompts if prompt]


def asked_status(page: Page) -> None:
    page.evaluate("window.Playground.state.ask()")


def test_two_hundred_clicks_are_one_run(people: list[BrowserContext], server: str) -> None:
    page = opened(people[0], server)
    page.click("details.more > summary")
    page.check("#set-raw")
    page.fill("#set-max_new_tokens", "40")
    page.fill("#prompt textarea", "Two hundred clicks: 1, 2, 3, 4, 5,")
    page.evaluate("for (let i = 0; i < 200; i++) document.querySelector('#run').click()")
    expect(page.locator(".page-play .asked-prompt")).to_have_text("Two hundred clicks: 1, 2, 3, 4, 5,", timeout=SLOW)
    expect(page.locator(".page-play .scrubber .status")).to_have_text(ENDED, timeout=SLOW)
    page.wait_for_timeout(1000)
    assert page.locator(".page-play .actions .message.problem:visible").count() == 0
    assert sum("Two hundred" in prompt for prompt in runs(page)) == 1


def test_two_tabs_of_one_person_run_side_by_side(people: list[BrowserContext], server: str) -> None:
    left, right = (opened(people[0], server) for _ in range(2))
    press_run(left, "The left tab.", 12)
    press_run(right, "The right tab.", 12)
    for page, prompt in ((left, "The left tab."), (right, "The right tab.")):
        expect(page.locator(".page-play .asked-prompt")).to_have_text(prompt, timeout=SLOW)
        expect(page.locator(".page-play .scrubber .status")).to_have_text(ENDED, timeout=SLOW)
    assert {"The left tab.", "The right tab."} <= set(runs(left))


def test_reload_during_a_run_keeps_what_there_was(people: list[BrowserContext], server: str) -> None:
    page = opened(people[0], server)
    press_run(page, "Reload while this runs: 1, 2, 3, 4, 5,", 400, raw=True)
    page.wait_for_function(
        "document.querySelectorAll('.page-play .tok[data-index]').length > 2 && location.search.includes('run=')"
    )
    page.reload()
    page.wait_for_function(
        "document.querySelector('.page-play .asked-prompt')?.textContent === 'Reload while this runs: 1, 2, 3, 4, 5,'"
    )
    people_chip = page.locator(".chip.people")
    expect(people_chip).to_contain_text("nobody running", timeout=SLOW)
    press_run(page, "And again.", 5)
    expect(page.locator(".page-play .asked-prompt")).to_have_text("And again.", timeout=SLOW)
    expect(page.locator(".page-play .scrubber .status")).to_have_text(ENDED, timeout=SLOW)
    assert {"Reload while this runs: 1, 2, 3, 4, 5,", "And again."} <= set(runs(page))


def test_one_who_waits_is_told_and_is_next(people: list[BrowserContext], narrow: str) -> None:
    first, second = (opened(context, narrow) for context in people)
    press_run(first, *ENDLESS, raw=True)
    first.wait_for_selector(".page-play .scrubber.live")
    press_run(second, "And mine?", 6)
    expect(second.locator(".page-play .actions .message")).to_contain_text("you are next", timeout=SLOW)
    asked_status(second)
    expect(second.locator(".chip.people")).to_contain_text("number 1 in line", timeout=SLOW)
    second.click("#stop")
    expect(second.locator(".page-play .actions .message:visible")).to_have_count(0, timeout=SLOW)
    press_run(second, "And mine now?", 6)
    expect(second.locator(".page-play .actions .message")).to_contain_text("you are next", timeout=SLOW)
    first.click("#stop")
    expect(second.locator(".page-play .asked-prompt")).to_have_text("And mine now?", timeout=SLOW)
    expect(second.locator(".page-play .scrubber .status")).to_have_text(ENDED, timeout=SLOW)


def test_a_closed_tab_leaves_the_line_and_its_place(people: list[BrowserContext], narrow: str) -> None:
    first, second = (opened(context, narrow) for context in people)
    third = opened(people[1], narrow)
    press_run(first, *ENDLESS, raw=True)
    first.wait_for_selector(".page-play .scrubber.live")
    press_run(second, "I wait.", 500)
    expect(second.locator(".page-play .actions .message")).to_contain_text("you are next", timeout=SLOW)
    second.close()
    first.close()
    press_run(third, "At last.", 4)
    expect(third.locator(".page-play .scrubber .status")).to_have_text(ENDED, timeout=SLOW)
    asked_status(third)
    expect(third.locator(".chip.people")).to_contain_text("nobody running", timeout=SLOW)


def test_limits_are_said_where_run_was_pressed(people: list[BrowserContext], narrow: str) -> None:
    page = opened(people[0], narrow)
    press_run(page, "a" * 1001, 4)
    expect(page.locator(".page-play .actions .message.problem")).to_contain_text(
        "this server reads at most 1,000", timeout=SLOW
    )
    for number in range(3):
        press_run(page, f"Run {number}.", 2)
        expect(page.locator(".page-play .asked-prompt")).to_have_text(f"Run {number}.", timeout=SLOW)
        expect(page.locator(".page-play .scrubber .status")).to_have_text(ENDED, timeout=SLOW)
    expect(page.locator(".page-play .actions .message")).to_contain_text(
        "your oldest one without a star was deleted", timeout=SLOW
    )
    assert sorted(runs(page)) == ["Run 1.", "Run 2."]

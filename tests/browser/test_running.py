"""With the real model: run, stop, branch, reopen, and everything that people type."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


@pytest.fixture
def ready(page: Page) -> Page:
    """The page, with the model loaded and a short run asked for."""
    page.wait_for_function("document.querySelector('.chip.model').textContent.includes('float32')", timeout=120_000)
    choose(page, "greedy")
    tokens(page, 12)
    return page


def choose(page: Page, method: str) -> None:
    page.click("#method .chosen")
    page.locator(f"#method .option[data-id='{method}']").click()
    page.wait_for_timeout(300)


def tokens(page: Page, count: int) -> None:
    page.fill("#set-max_new_tokens", str(count))


def run(page: Page, prompt: str | None = None) -> None:
    """Runs to the end."""
    if prompt is not None:
        page.fill("#prompt textarea", prompt)
    before = page.url
    page.click("#run")
    page.wait_for_function("url => location.href !== url && !document.querySelector('.scrubber.live')", arg=before)


def test_run_shows_tokens_while_they_are_decoded(ready: Page) -> None:
    tokens(ready, 200)
    ready.fill("#prompt textarea", "Tell me a story about a fox.")
    ready.click("#run")
    ready.wait_for_selector(".scrubber.live", timeout=5_000)
    ready.wait_for_function(
        "(() => { const n = document.querySelectorAll('.tok[data-index]').length; return n > 2 && n < 200 })()"
    )
    assert ready.inner_text(".page-play .scrubber .status") == "live"
    ready.wait_for_selector(".scrubber:not(.live)")
    assert ready.inner_text(".page-play .numbers dd >> nth=0") == "1.00"
    assert ready.locator(".page-play .asked-prompt").inner_text() == "Tell me a story about a fox."


def test_stop_stops_and_keeps_what_there_was(ready: Page) -> None:
    tokens(ready, 500)
    ready.fill("#prompt textarea", "Write a very long story.")
    ready.click("#run")
    ready.wait_for_function("document.querySelector('.scrubber.live') && document.querySelectorAll('.tok').length > 3")
    ready.click("#stop")
    expect(ready.locator(".page-play .scrubber .status")).to_have_text("stopped", timeout=10_000)
    count = ready.locator(".page-play .tok[data-index]").count()
    assert 3 < count < 500
    ready.wait_for_timeout(700)
    assert ready.locator(".page-play .tok[data-index]").count() == count


def test_a_run_survives_reload_and_is_listed(ready: Page) -> None:
    run(ready, "Name a colour.")
    text = ready.inner_text(".page-play .tokens")
    assert "run=" in ready.url
    ready.reload()
    ready.wait_for_function("document.querySelector('.asked-prompt')?.textContent === 'Name a colour.'")
    assert ready.inner_text(".page-play .tokens") == text
    expect(ready.locator("#method .chosen b")).to_have_text("Greedy")
    expect(ready.locator("#prompt textarea")).to_have_value("Name a colour.")
    expect(ready.locator("#set-max_new_tokens")).to_have_value("12")
    ready.get_by_role("link", name="Sessions").click()
    ready.locator(".session", has_text="Name a colour.").click()
    expect(ready.locator(".page-play")).to_be_visible()


def test_clicking_an_alternative_continues_from_there(ready: Page) -> None:
    run(ready, "What is the capital of France?")
    before = ready.url
    texts = ready.locator(".page-play .tok[data-index]").all_inner_texts()
    ready.locator(".page-play .tok[data-index='2']").click()
    other = ready.locator(".page-play .popover button.alt").first
    wanted = other.locator(".alt-token").inner_text().replace("␣", " ")
    other.click()
    ready.wait_for_function("url => location.href !== url && !document.querySelector('.scrubber.live')", arg=before)
    after = ready.locator(".page-play .tok[data-index]").all_inner_texts()
    assert after[:2] == texts[:2]
    assert after[2].strip() == wanted.strip()
    assert len(after) > 3
    assert ready.locator(".page-play .tok.given").count() == 3


@pytest.mark.parametrize(
    ("prompt", "says"), [("", "The prompt is empty."), ("   \n", "The prompt is empty."), ("a " * 20_000, "long")]
)
def test_a_bad_prompt_gets_a_sentence(ready: Page, prompt: str, says: str) -> None:
    before = ready.inner_text(".page-play .tokens")
    ready.fill("#prompt textarea", prompt)
    ready.click("#run")
    expect(ready.locator(".actions .message.problem")).to_contain_text(says)
    assert ready.inner_text(".page-play .tokens") == before


def test_a_megabyte_is_refused_at_once(ready: Page) -> None:
    ready.evaluate(
        """() => { const box = document.querySelector('#prompt textarea');
                   box.value = 'x'.repeat(1_000_000); box.dispatchEvent(new Event('input', {bubbles: true})); }"""
    )
    ready.click("#run")
    expect(ready.locator(".actions .message.problem")).to_contain_text("long", timeout=10_000)


def test_numbers_that_are_none_get_a_sentence(ready: Page) -> None:
    for name, value, says in (
        ("max_new_tokens", "NaN", "whole number"),
        ("max_new_tokens", "0", "from 1"),
        ("max_new_tokens", "1e999", "whole number"),
    ):
        ready.fill(f"#set-{name}", value)
        ready.click("#run")
        expect(ready.locator(".actions .message.problem")).to_contain_text(says)
    tokens(ready, 4)
    choose(ready, "sampling")
    ready.fill("#set-temperature", "nan")
    ready.click("#run")
    expect(ready.locator(".actions .message.problem")).to_contain_text("finite")


@pytest.mark.parametrize(
    "prompt",
    [
        "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>",
        "שלום עולם, مرحبا بالعالم",
        "👩‍👩‍👧‍👦 \u0000\u0007 ${window.hacked = 1} {{window.hacked}} \ud83d",
    ],
)
def test_hostile_text_is_only_text(ready: Page, prompt: str) -> None:
    ready.click("details.more > summary")
    ready.check("#set-raw")
    run(ready, prompt)
    ready.wait_for_timeout(300)
    assert ready.evaluate("window.hacked") is None
    assert ready.locator(".stream script, .stream img").count() == 0
    assert ready.locator(".page-play .tok[data-index]").count() == 12


def test_an_unknown_model_leaves_the_running_one(ready: Page) -> None:
    ready.get_by_role("link", name="Models").click()
    ready.click("#model .chosen")
    ready.fill("#model .search", "../x")
    ready.keyboard.press("Enter")
    ready.click("#load")
    expect(ready.locator(".models .message.problem")).to_contain_text("stays loaded", timeout=20_000)
    ready.get_by_role("link", name="Play", exact=True).click()
    run(ready, "Hello")


def test_closing_the_page_ends_the_run(ready: Page) -> None:
    other = ready.context.new_page()
    other.goto(ready.url)
    other.wait_for_selector(".tok")
    tokens(other, 500)
    other.fill("#prompt textarea", "Write a very long story.")
    other.click("#run")
    people = ready.locator(".chip.people")
    expect(people).to_contain_text("1 run in progress", timeout=15_000)
    other.close()
    expect(people).to_contain_text("nobody running", timeout=30_000)


def test_a_typed_seed_is_the_runs_seed(ready: Page) -> None:
    ready.locator("details.more > summary").first.click()
    ready.fill("#set-seed", "77")
    run(ready, "Say yes.")
    ready.reload()
    ready.wait_for_function("document.querySelector('.asked-prompt')?.textContent === 'Say yes.'")
    expect(ready.locator("#set-seed")).to_have_value("77")

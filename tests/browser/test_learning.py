"""Lessons, glossary, the guided first minute, and the code beside the pictures, as people use them."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from playground.answers import ANSWERS
from playground.lessons import LESSONS, moment
from playground.ui.shelf import RECORDED, read_recording

pytestmark = pytest.mark.browser

TREE = "?view=learn&lesson=guess-then-check&at=2"

COVERS = """() => {
  const [a, b] = ['.tour', '.tour-target'].map((one) => document.querySelector(one).getBoundingClientRect());
  return a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
}"""
"""Whether the mark of the tour lies over what it explains."""


def lesson(page: Page, server: str, address: str) -> None:
    page.goto(f"{server}{address}")
    page.wait_for_selector(".lesson-heading")


def test_lessons_are_listed_and_open_step_by_step(page: Page) -> None:
    page.get_by_role("link", name="Learn", exact=True).click()
    expect(page.locator(".lesson-card")).to_have_count(len(list(LESSONS.glob("*.md"))))
    expect(page.locator(".lesson-stage")).to_be_hidden()
    page.locator(".lesson-card", has_text="Guess, then check").click()
    expect(page.locator(".lesson-heading")).to_have_text("Waiting for memory")
    expect(page.locator(".page-learn .picture h3")).to_have_text("Cost curve")
    page.get_by_role("button", name="Next").click()
    expect(page.locator(".lesson-place")).to_have_text("2 of 6")
    assert page.url.endswith("view=learn&lesson=guess-then-check&at=2")
    page.reload()
    expect(page.locator(".lesson-heading")).to_have_text("A tree of guesses")
    page.go_back()
    expect(page.locator(".lesson-place")).to_have_text("1 of 6")
    page.go_back()
    expect(page.locator(".lesson-card").first).to_be_visible()
    page.get_by_role("link", name="Play", exact=True).click()
    assert "lesson" not in page.url


def test_a_question_hides_the_verdict_until_it_is_answered(page: Page, server: str) -> None:
    events = read_recording(RECORDED, "token-recycling")
    truth = ANSWERS["accepted"](moment(events, "first pass that accepted several"))
    wrong = next(option for option in truth.options if option != truth.value)
    lesson(page, server, TREE)
    page.wait_for_selector(".page-learn .picture .plot-container")
    picture = page.locator(".page-learn .canvas")
    expect(picture).to_have_attribute("aria-label", re.compile("has not judged it yet"))
    expect(page.locator(".page-learn .scrubber")).to_be_hidden()
    assert page.locator(".lesson").inner_text().count(f"Not quite: it is {truth.value}") == 0
    page.locator(f".answer[data-answer='{wrong}']").click()
    expect(page.locator(".lesson-result")).to_contain_text(f"Not quite: it is {truth.value}.")
    expect(page.locator(".answer.right")).to_have_text(f"{truth.value} ✓")
    expect(page.locator(".answer.wrong")).to_have_text(f"{wrong} ✕")
    expect(picture).to_have_attribute("aria-label", re.compile(f"accepted {truth.value}"))
    expect(page.locator(".page-learn .scrubber")).to_be_visible()
    page.reload()
    expect(page.locator(".lesson-result")).to_contain_text("Not quite")
    page.get_by_role("link", name="← All lessons").click()
    expect(page.locator(".lesson-card", has_text="Guess, then check")).to_contain_text("0 of 1 predicted right")
    lesson(page, server, TREE)
    page.get_by_role("button", name="Ask me again").click()
    page.locator(f".answer[data-answer='{truth.value}']").click()
    expect(page.locator(".lesson-result")).to_contain_text("Right")


def test_a_number_is_asked_for_and_forgiven_a_little(page: Page, server: str) -> None:
    lesson(page, server, "?view=learn&lesson=one-token-at-a-time&at=4")
    truth = ANSWERS["probability"](moment(read_recording(RECORDED, "greedy"), 29))
    assert truth.number is not None
    page.fill(".answer-number", f"{truth.number + 6:.0f}")
    page.keyboard.press("Enter")
    expect(page.locator(".lesson-result")).to_contain_text(f"Right: {truth.value}.")


def test_a_lesson_runs_here_and_opens_on_the_play_page(page: Page, server: str) -> None:
    page.wait_for_function("document.querySelector('.chip.model').textContent.includes('float32')", timeout=120_000)
    lesson(page, server, "?view=learn&lesson=chance-shaped&at=7")
    expect(page.locator(".lesson-stage .stream")).to_be_hidden()
    page.locator("#lesson-temperature").evaluate("one => { one.value = 0; one.dispatchEvent(new Event('input')) }")
    page.get_by_role("button", name="Run it here").click()
    page.locator(".open-in-play").wait_for(timeout=60_000)
    assert page.locator(".page-learn .tok[data-index]").count() > 10
    expect(page.locator(".page-learn .asked-label")).to_have_text("Sampling")
    page.locator(".page-learn .tok[data-index='1']").click()
    page.locator(".page-learn .popover button.alt").first.click()
    expect(page.locator(".page-learn .tok.given")).to_have_count(2, timeout=60_000)
    expect(page.locator(".page-learn .scrubber:not(.live)")).to_be_visible(timeout=60_000)
    page.get_by_role("button", name="Open on the Play page").click()
    expect(page.locator(".page-play .asked-label")).to_have_text("Sampling")
    expect(page.locator("#set-temperature")).to_have_value("0")


def test_words_say_what_they_mean_wherever_they_stand(page: Page, server: str) -> None:
    for place in (".method-card .term", ".picture .explains .term", ".numbers dt .term"):
        assert page.locator(place).count() > 0, place
    term = page.locator(".method-card .term").first
    term.hover()
    expect(page.locator("#term-tip")).to_be_visible()
    expect(page.locator("#term-tip b")).to_have_text(term.get_attribute("data-word") or "")
    page.keyboard.press("Escape")
    expect(page.locator("#term-tip")).to_be_hidden()
    page.mouse.move(0, 0)
    term.focus()  # the keyboard was used last, so the focus is visible and opens it
    expect(page.locator("#term-tip")).to_be_visible()
    assert term.get_attribute("aria-expanded") == "true"
    assert term.get_attribute("aria-describedby") == "term-tip"
    page.keyboard.press("Enter")
    expect(page.locator("#term-tip")).to_be_hidden()
    page.keyboard.press("Enter")
    expect(page.locator("#term-tip")).to_be_visible()
    lesson(page, server, TREE)
    marked = page.locator(".lesson-body .term").evaluate_all("all => all.map(term => term.dataset.word)")
    assert len(marked) == len(set(marked)) > 1


def test_the_glossary_is_searched(page: Page) -> None:
    page.get_by_role("link", name="Learn", exact=True).click()
    assert page.locator(".glossary dt").count() >= 40
    page.fill("#glossary-search", "nucleus")
    expect(page.locator(".glossary dt")).to_have_text(["top-p"])
    page.fill("#glossary-search", "<img src=x>")
    expect(page.locator(".glossary [role=status]")).to_have_text("No word matches.")


def test_code_follows_the_scrubber(page: Page) -> None:
    page.locator(".code-panel summary").click()
    page.wait_for_selector(".code-lines li.now")
    expect(page.locator(".code-tab").first).to_have_text("token_recycling.py")
    expect(page.locator(".code-tab[aria-selected=true]")).to_have_text("loop.py")
    expect(page.locator(".code-lines li.now")).to_have_count(1)
    chips = page.locator(".code-events .chip")
    said = chips.all_inner_texts()
    page.locator(".page-play .scrubber input").evaluate(
        "one => { one.value = 1; one.dispatchEvent(new Event('input')) }"
    )
    page.wait_for_function(
        "said => [...document.querySelectorAll('.code-events .chip')].map((c) => c.textContent).join() !== said",
        arg=",".join(said),
    )
    assert "draft" not in chips.all_inner_texts()
    page.locator(".code-tab", has_text="token_recycling.py").click()
    expect(page.locator(".code-lines")).to_contain_text("Token Recycling")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".code-tab[aria-selected=true]")).not_to_have_text("token_recycling.py")


def test_the_browser_cannot_ask_for_other_files(page: Page) -> None:
    with page.expect_request(lambda one: "component_server" in one.url and '"place"' in (one.post_data or "")) as sent:
        page.locator(".code-panel summary").click()
    asked = json.loads(sent.value.post_data or "{}")
    for module in ("engines.runner", "app", "playground.store", "/etc/passwd", "../app"):
        answer = page.request.post(sent.value.url, data=asked | {"fn_name": "code", "data": {"module": module}}).text()
        assert ("lines" in answer, "problem" in answer) == (module == "engines.runner", module != "engines.runner")


def test_the_tour_stands_beside_what_it_explains_and_is_offered_once(page: Page, server: str) -> None:
    for width, height in ((1366, 768), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        page.goto(f"{server}?tour=1")
        page.wait_for_selector(".tour")
        count = int(page.inner_text(".tour-place").split("/")[1])
        for stop in range(1, count + 1):
            expect(page.locator(".tour-place")).to_have_text(f"{stop} / {count}")
            page.wait_for_timeout(1000)
            covered = page.evaluate(COVERS)
            assert not covered, f"stop {stop} at {width}"
            box = page.locator(".tour").bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["y"] + box["height"] <= height
            page.locator(".tour button.next").click()
        expect(page.locator(".tour")).to_have_count(0)
    assert page.evaluate("localStorage.getItem('playground-tour')") == "seen"


def test_the_tour_blocks_nothing_and_escape_ends_it(page: Page, server: str) -> None:
    page.goto(f"{server}?view=learn")
    page.get_by_role("button", name="Show me around the Play page").click()
    expect(page.locator(".page-play")).to_be_visible()
    page.wait_for_selector(".tour")
    page.locator("#method .chosen").click()
    expect(page.locator("#method .option").first).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".tour")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".tour")).to_have_count(0)


@pytest.mark.parametrize(
    ("address", "person", "offered"),
    [("", True, True), ("", False, False), ("?run=recorded-sampling", True, False), ("?view=models", True, False)],
)
def test_who_is_offered_the_tour(
    context: BrowserContext, server: str, address: str, person: bool, offered: bool
) -> None:
    if person:
        context.add_init_script("Object.defineProperty(navigator, 'webdriver', { get: () => false })")
    page = context.new_page()
    page.goto(server + address)
    page.wait_for_selector(".page-play .picture .plot-container", state="attached")
    page.wait_for_timeout(1500)
    assert page.locator(".tour").count() == int(offered)
    if offered:
        page.keyboard.press("Escape")
        page.reload()
        page.wait_for_selector(".page-play .picture .plot-container")
        page.wait_for_timeout(1500)
        assert page.locator(".tour").count() == 0


@pytest.mark.parametrize("width", [390, 1366])
def test_lessons_never_scroll_sideways(page: Page, server: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    for address in ("?view=learn", TREE, "?view=learn&lesson=beams&at=4"):
        page.goto(f"{server}{address}")
        page.wait_for_selector(".lesson-list, .lesson")
        page.wait_for_timeout(600)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_lesson_that_does_not_exist_shows_the_list(page: Page, server: str) -> None:
    page.goto(f"{server}?view=learn&lesson=%3Cscript%3E&at=99999")
    expect(page.locator(".lesson-card").first).to_be_visible()
    page.goto(f"{server}?view=learn&lesson=beams&at=99999")
    expect(page.locator(".lesson-place")).to_have_text("6 of 6")

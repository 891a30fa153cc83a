"""The editor of a constraint, the mask over a run, and the verdict on its text."""

from __future__ import annotations

import json

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from playground.grammars import load

pytestmark = pytest.mark.browser

WCAG = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}
EDITOR = ".page-play details.constraint"
VERDICT = ".page-play .validity"


@pytest.fixture
def ready(page: Page) -> Page:
    """The page, with the model loaded and the grammar mask chosen."""
    page.wait_for_function("document.querySelector('.chip.model').textContent.includes('float32')", timeout=120_000)
    choose(page, "grammar-mask")
    expect(page.locator(f"{EDITOR} .said")).to_contain_text("ok, read in")
    return page


def choose(page: Page, method: str) -> None:
    page.click("#method .chosen")
    page.locator(f"#method .option[data-id='{method}']").click()
    page.wait_for_timeout(300)


def run(page: Page, prompt: str) -> None:
    """Runs to the end."""
    page.fill("#prompt textarea", prompt)
    page.fill("#set-max_new_tokens", "64")
    before = page.url
    page.click("#run")
    page.wait_for_function("url => location.href !== url && !document.querySelector('.scrubber.live')", arg=before)


def values(page: Page) -> dict[str, str]:
    """What would be run with, off the form."""
    return {name: page.locator(f"#set-{name}").input_value() for name in ("constraint", "grammar")}


def test_a_schema_is_kept_to_shown_and_judged(ready: Page) -> None:
    run(ready, "Write a JSON object for a person named Ada.")
    mask = ready.locator(".picture[data-picture='mask']")
    mask.scroll_into_view_if_needed()
    expect(mask.locator(".plot-container")).to_be_visible()
    expect(mask.locator("svg .annotation-text").first).to_contain_text("of what the model wanted")
    expect(ready.locator(VERDICT)).to_contain_text("The text is valid (JSON Schema), says jsonschema")
    written = json.loads(ready.inner_text(".page-play .tokens").split("<|im_end|>")[0])
    ready.click(f"{VERDICT} .more-json")
    assert json.loads(ready.inner_text(f"{VERDICT} .pretty")) == written
    assert "\n  " in ready.inner_text(f"{VERDICT} .pretty")


def test_the_first_mistake_is_marked_while_one_types_and_the_last_good_one_is_named(ready: Page) -> None:
    area = ready.locator("#set-grammar")
    area.fill(area.input_value().replace('"type": "integer"', '"type" "integer"'))
    said = ready.locator(f"{EDITOR} .said")
    expect(said).to_contain_text("Line 5, column 20")
    expect(said).to_contain_text("expecting ':'")
    expect(ready.locator(f"{EDITOR} .lines mark")).to_have_text("✕5")
    expect(ready.locator(f"{EDITOR} .place")).to_contain_text('"type" "integer"')
    expect(area).to_have_attribute("aria-invalid", "true")
    expect(ready.locator(f"{EDITOR} .back")).to_contain_text("last good one: JSON Schema, Person")
    ready.locator(f"{EDITOR} .place button").click()
    at = area.evaluate("area => area.value.slice(0, area.selectionStart).split('\\n').length")
    assert at == 5
    ready.click("#run")
    expect(ready.locator(".actions .message.problem")).to_contain_text("Line 5, column 20")
    ready.locator(f"{EDITOR} .back button").click()
    expect(said).to_contain_text("ok, read in")
    expect(area).not_to_have_attribute("aria-invalid", "true")
    assert area.input_value() == load()["person"].grammar


def test_another_grammar_comes_from_the_gallery_with_its_prompt_and_its_output_is_valid(ready: Page) -> None:
    ready.select_option("#set-gallery", "yes-no")
    assert values(ready) == {"constraint": "choices", "grammar": load()["yes-no"].grammar}
    expect(ready.locator(f"{EDITOR} summary")).to_contain_text("choices: Yes, no or unsure")
    ready.locator(f"{EDITOR} .note button").click()
    prompt = ready.locator("#prompt textarea").input_value()
    assert prompt == load()["yes-no"].prompt
    run(ready, prompt)
    expect(ready.locator(VERDICT)).to_contain_text("The text is valid (choices), says the list.")
    assert ready.inner_text(".page-play .tokens").startswith(("yes", "no", "unsure"))
    ready.reload()
    ready.wait_for_selector(f"{EDITOR}[open]")
    assert values(ready) == {"constraint": "choices", "grammar": load()["yes-no"].grammar}
    expect(ready.locator(VERDICT)).to_contain_text("valid")


def test_a_text_cut_short_is_unfinished(ready: Page) -> None:
    ready.fill("#set-max_new_tokens", "3")
    before = ready.url
    ready.fill("#prompt textarea", "A person, please.")
    ready.click("#run")
    ready.wait_for_function("url => location.href !== url && !document.querySelector('.scrubber.live')", arg=before)
    expect(ready.locator(VERDICT)).to_contain_text("The text is unfinished")


def test_a_method_without_a_constraint_runs_without_one_and_keeps_its_section_folded(ready: Page) -> None:
    choose(ready, "greedy")
    expect(ready.locator(f"{EDITOR} summary")).to_contain_text("none")
    expect(ready.locator(EDITOR)).not_to_have_attribute("open", "")
    run(ready, "Name a colour.")
    expect(ready.locator(VERDICT)).to_be_hidden()
    ready.click(f"{EDITOR} summary")
    ready.select_option("#set-constraint", "regex")
    assert ready.locator("#set-grammar").input_value() == load()["date"].grammar, "the first of its kind"
    run(ready, "When was the first Moon landing?")
    expect(ready.locator(VERDICT)).to_contain_text("The text is valid (regular expression)")
    ready.select_option("#set-constraint", "none")
    run(ready, "Name a colour.")
    expect(ready.locator(VERDICT)).to_be_hidden()


def test_a_method_that_takes_grammars_only_offers_those(ready: Page) -> None:
    choose(ready, "syncode")
    expect(ready.locator("#set-kind")).to_be_hidden()
    expect(ready.locator(f"{EDITOR} summary")).to_contain_text("grammar: Arithmetic")
    ids = ready.locator("#set-gallery option").evaluate_all("all => all.map(one => one.value)")
    kinds = {example.kind for id, example in load().items() if id in ids}
    assert kinds == {"grammar"}
    ready.fill("#set-grammar", 'start: start start | "a"')
    expect(ready.locator(f"{EDITOR} .said.bad")).to_be_visible()


def test_a_text_that_was_emptied_does_not_pass_for_the_methods_own(ready: Page) -> None:
    ready.fill("#set-grammar", "")
    expect(ready.locator(f"{EDITOR} .said")).to_contain_text("There is nothing here yet")
    ready.click("#run")
    expect(ready.locator(".actions .message.problem")).to_contain_text("There is nothing here yet")


def test_hostile_grammars_are_only_text(ready: Page) -> None:
    bad = "<img src=x onerror=hacked=1>"
    ready.select_option("#set-constraint", "grammar")
    ready.fill("#set-grammar", f"{bad}<script>hacked = 1</script>\n${{hacked = 1}} {{{{x}}}}\u202e")
    expect(ready.locator(f"{EDITOR} .said.bad")).to_be_visible()
    expect(ready.locator(f"{EDITOR} .place")).to_contain_text("<img src=x")
    ready.select_option("#set-constraint", "choices")
    ready.fill("#set-grammar", bad)
    run(ready, "Say anything.")
    expect(ready.locator(VERDICT)).to_contain_text("The text is valid (choices)")
    ready.wait_for_timeout(300)
    assert ready.evaluate("window.hacked") is None
    assert ready.locator(".validity img, .constraint img, .picture[data-picture='mask'] img").count() == 0


def test_typing_is_read_once_when_one_pauses(ready: Page) -> None:
    asked: list[str] = []
    ready.on("request", lambda request: asked.append(request.post_data or ""))
    ready.select_option("#set-constraint", "choices")
    ready.wait_for_timeout(800)
    ready.locator("#set-grammar").press_sequentially("one two three", delay=40)
    ready.wait_for_selector(f"{EDITOR} .said.good:not(.old)")
    read = [what for what in asked if '"fn_name":"read"' in what and '"choices"' in what]
    assert ["three" in what for what in read] == [False, True], "once for the choice, once for the typing"


def test_every_contestant_has_its_own_constraint(ready: Page) -> None:
    ready.get_by_role("link", name="Compare").click()
    for place, kind in ((0, "regex"), (1, "none")):
        box = ready.locator(f"#contestant-{place} details.constraint")
        box.locator("summary").click()
        box.locator("select").first.select_option(kind)
    ready.locator("#contestant-2 .chosen").first.click()
    ready.locator("#contestant-2 .option[data-id='nobody']").click()
    ready.fill("#compare-prompt textarea", "When was the first Moon landing?")
    ready.fill("#compare-max_new_tokens", "16")
    ready.fill("#compare-rounds", "1")
    ready.click("#compare-run")
    expect(ready.locator(".page-compare .lane-text, .page-compare .lane").first).to_contain_text("-", timeout=60_000)


@pytest.mark.parametrize("width", [390, 1366])
def test_a_long_line_scrolls_in_its_box_and_not_the_page(ready: Page, width: int) -> None:
    ready.set_viewport_size({"width": width, "height": 844})
    ready.select_option("#set-constraint", "choices")
    ready.fill("#set-grammar", "\n".join(["x" * 4000] * 200))
    expect(ready.locator(f"{EDITOR} .said")).to_contain_text("ok, read in")
    assert ready.evaluate("document.documentElement.scrollWidth") <= width
    area, lines = ready.locator("#set-grammar"), ready.locator(f"{EDITOR} .lines")
    area.evaluate("area => area.scrollTop = 900")
    ready.wait_for_timeout(100)
    assert lines.evaluate("lines => lines.scrollTop") == area.evaluate("area => area.scrollTop")
    box = area.bounding_box()
    assert box is not None
    assert box["x"] + box["width"] <= width


def test_more_room_covers_the_page_and_escape_gives_it_back(ready: Page) -> None:
    ready.click(f"{EDITOR} .room")
    box = ready.locator("#set-grammar").bounding_box()
    assert box is not None
    assert box["width"] > 900
    ready.locator("#set-grammar").click()
    ready.keyboard.press("Escape")
    box = ready.locator("#set-grammar").bounding_box()
    assert box is not None
    assert box["width"] < 300


def test_axe_finds_nothing_in_editor_and_verdict_in_either_theme(ready: Page) -> None:
    ready.select_option("#set-gallery", "yes-no")
    run(ready, "Is a tomato a fruit?")
    expect(ready.locator(VERDICT)).to_contain_text("valid")
    ready.select_option("#set-constraint", "json schema")
    ready.fill("#set-grammar", '{"type" "object"}')
    expect(ready.locator(f"{EDITOR} .back")).to_be_visible()
    for theme in ("light", "dark"):
        ready.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")
        ready.wait_for_timeout(300)
        found = Axe().run(ready, options=WCAG).response["violations"]
        assert [f"{theme} {one['id']}: {node['target']}" for one in found for node in one["nodes"]] == []


def test_a_constraint_that_was_set_stays_when_another_method_is_chosen(ready: Page) -> None:
    ready.select_option("#set-gallery", "yes-no")
    wanted = {"constraint": "choices", "grammar": load()["yes-no"].grammar}
    for method in ("greedy", "sampling", "grammar-mask"):
        choose(ready, method)
        assert values(ready) == wanted, method
    run(ready, "Is the sky blue?")
    expect(ready.locator(VERDICT)).to_contain_text("The text is valid (choices)")

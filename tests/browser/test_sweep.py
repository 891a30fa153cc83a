"""The Sweep page with the real model: choose, start, pause, come back, go on, export, open a run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


@pytest.fixture
def sweeping(page: Page) -> Page:
    """The page, with the model loaded and a small sweep asked for."""
    page.wait_for_function("document.querySelector('.chip.model').textContent.includes('float32')", timeout=120_000)
    page.click("header nav a[data-page='sweep']")
    page.locator(".sources label", has_text="Pasted").click()
    page.fill(".sweep-form textarea", "Say hi.\nCount to three.")
    page.fill("#sweep-tokens", "6")
    while page.locator(".contenders li").count() > 2:
        page.locator(".contender .drop").last.click()
    expect(page.locator(".sweep-form .total")).to_have_text("4 runs")
    return page


def done(page: Page) -> None:
    expect(page.locator(".board-head .state-done")).to_be_visible(timeout=90_000)


def test_a_sweep_runs_whose_page_is_closed_is_paused_and_resumed(sweeping: Page, server: str) -> None:
    sweeping.fill("#sweep-tokens", "40")
    sweeping.click("#sweep-start")
    expect(sweeping.locator(".board .where")).to_contain_text(re.compile(r"[12] of 4 runs"), timeout=60_000)
    context = sweeping.context
    sweeping.close()
    page = context.new_page()
    page.goto(f"{server}?view=sweep")
    expect(page.locator("#sweep-resume")).to_be_visible(timeout=30_000)
    page.click("#sweep-resume")
    done(page)
    expect(page.locator(".sweep-table").first.locator("tbody tr")).to_have_count(2)
    expect(page.locator(".sweep-table td").filter(has_text="2 of 2")).to_contain_text("✓")
    expect(page.locator("[data-picture='sweep-speed'] .js-plotly-plot .boxlayer .box").first).to_be_attached()


def test_pause_stops_between_two_tokens_and_results_can_be_saved_and_opened(sweeping: Page, tmp_path: Path) -> None:
    sweeping.click("#sweep-start")
    sweeping.click("#sweep-pause")
    expect(sweeping.locator("#sweep-resume")).to_be_visible(timeout=20_000)
    sweeping.click("#sweep-resume")
    done(sweeping)
    with sweeping.expect_download() as saved:
        sweeping.get_by_role("button", name="Save as JSON").click()
    saved.value.save_as(tmp_path / "sweep.json")
    told = json.loads((tmp_path / "sweep.json").read_text())
    assert [one["done"] for one in told["methods"]] == [2, 2]
    sweeping.locator(".folded", has_text="Every run").locator("summary").click()
    sweeping.locator(".matrix a").first.click()
    expect(sweeping.locator(".page-play .asked-prompt")).to_have_text("Say hi.")
    assert told["runs"][0]["run"] in sweeping.url


def test_a_file_of_the_wrong_kind_is_refused_with_its_line(sweeping: Page) -> None:
    sweeping.locator(".sources label", has_text="From a file").click()
    bad = {
        "name": "p.jsonl",
        "mimeType": "text/plain",
        "buffer": b'{"prompt": "<img src=x onerror=alert(1)>"}\n{"text": 1}',
    }
    sweeping.set_input_files(".sweep-form input[type=file]", bad)
    expect(sweeping.locator(".sweep-form .told")).to_have_text('Line 2 has no "prompt".')
    expect(sweeping.locator("#sweep-start")).to_be_disabled()
    good = bad | {"buffer": b'{"prompt": "<img src=x onerror=alert(1)>"}'}
    sweeping.set_input_files(".sweep-form input[type=file]", good)
    expect(sweeping.locator(".sweep-form .told")).to_contain_text("<img src=x onerror=alert(1)>")
    expect(sweeping.locator("#sweep-start")).to_be_enabled()


def test_a_setting_out_of_range_is_answered_in_words(sweeping: Page) -> None:
    sweeping.locator(".contenders details", has_text="Guesses").locator("summary").first.click()
    sweeping.locator(".sweep-field", has_text="Guesses").locator("input").fill("1000")
    sweeping.click("#sweep-start")
    expect(sweeping.locator(".live-sweep-board .message")).to_contain_text("guesses cannot be '1000'")


def test_a_grammar_is_edited_in_lines_and_kept_to(sweeping: Page) -> None:
    while sweeping.locator(".contenders > li").count() > 1:
        sweeping.locator(".contender .drop").last.click()
    sweeping.locator(".contender select").select_option("grammar-mask")
    sweeping.locator(".contenders > li > details > summary").click()
    editor = sweeping.locator(".contenders details.constraint")
    expect(editor.locator(".said")).to_contain_text("ok, read in")
    editor.locator("select[id$='-gallery']").select_option("yes-no")
    area = editor.locator("textarea")
    expect(area).to_have_value("yes\nno\nunsure\n")
    area.fill("left\nright\n")
    expect(editor.locator(".said")).to_contain_text("ok, read in")
    expect(sweeping.locator(".contenders > li > details > summary")).to_have_text(
        "constraint=choices, grammar=left right"
    )
    sweeping.click("#sweep-start")
    done(sweeping)
    sweeping.locator(".folded", has_text="Every run").locator("summary").click()
    sweeping.locator(".matrix a").first.click()
    expect(sweeping.locator(".page-play .asked-prompt")).to_have_text("Say hi.")
    assert sweeping.inner_text(".page-play .tokens").startswith(("left", "right"))

"""The Sessions page in a real browser: a new visitor, one's own runs, two tabs, files in and out, SQL, the atlas."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

pytestmark = pytest.mark.browser

expect.set_options(timeout=20_000)
ENDED = "!document.querySelector('.scrubber .status').classList.contains('live')"
MARKUP = "<img src=x onerror='window.hacked=1'>"


def opened(context: BrowserContext, server: str, where: str = "?view=sessions") -> Page:
    page = context.new_page()
    page.goto(server + where)
    expect(page.locator(".page-sessions" if "sessions" in where else ".page-play")).to_be_visible(timeout=30_000)
    return page


def make(page: Page, prompt: str, method: str = "", tokens: int = 8) -> None:
    """One run on the Play page, to its end."""
    page.get_by_role("link", name="Play", exact=True).click()
    if method:
        page.click("#method .chosen")
        page.fill("#method .search", method)
        page.keyboard.press("Enter")
        page.wait_for_timeout(300)
    page.fill("#prompt textarea", prompt)
    page.fill("#set-max_new_tokens", str(tokens))
    before = page.url
    page.click("#run")
    page.wait_for_function(
        "before => location.href !== before && !document.querySelector('.scrubber .status').classList.contains('live')",
        arg=before,
        timeout=180_000,
    )
    page.wait_for_timeout(200)


def sessions(page: Page) -> Locator:
    page.get_by_role("link", name="Sessions").click()
    rows = page.locator(".runs li[data-run]")
    expect(rows.first).to_be_visible()
    return rows


def button(row: Locator, name: str) -> None:
    row.hover()
    row.get_by_role("button", name=name, exact=True).click()


@pytest.fixture(scope="module")
def state(browser, server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:  # type: ignore[no-untyped-def]
    """A browser in which three runs have been made, as a file for others to start from."""
    context = browser.new_context(viewport={"width": 1366, "height": 768})
    context.set_default_timeout(30_000)
    page = opened(context, server, "")
    page.wait_for_function("document.querySelector('.chip.model')?.textContent.includes(' GB')", timeout=180_000)
    make(page, "What is photosynthesis? Explain it simply.", "token recycling", tokens=24)
    make(page, "Why does it rain? Answer in three short sentences.", "greedy")
    make(page, f"Say hello to {MARKUP}", "sampling")
    path = tmp_path_factory.mktemp("browser") / "state.json"
    context.storage_state(path=path)
    context.close()
    return path


@pytest.fixture
def mine(browser, server: str, state: Path) -> Iterator[BrowserContext]:  # type: ignore[no-untyped-def]
    context = browser.new_context(
        viewport={"width": 1366, "height": 768}, accept_downloads=True, storage_state=str(state)
    )
    context.set_default_timeout(30_000)
    yield context
    context.close()


def test_a_new_visitor_is_told_what_will_be_here(context: BrowserContext, server: str) -> None:
    page = opened(context, server)
    expect(page.locator(".page-sessions .empty-runs").first).to_contain_text("Nothing here yet")
    expect(page.locator(".recorded .session").first).to_be_visible()
    page.get_by_role("button", name="make a run").click()
    expect(page.locator(".page-play")).to_be_visible()


def test_ones_own_runs_are_there_and_nobody_elses(mine: BrowserContext, context: BrowserContext, server: str) -> None:
    page = opened(mine, server)
    rows = page.locator(".runs li[data-run]")
    expect(rows.first).to_be_visible()
    expect(page.locator(".count")).to_contain_text("runs")
    expect(rows.filter(has_text="Say hello to")).to_contain_text(MARKUP)
    expect(rows.filter(has_text="photosynthesis")).to_contain_text("Questions")
    other = opened(context, server)
    expect(other.locator(".page-sessions .empty-runs").first).to_be_visible()
    assert other.locator(".runs li[data-run]").count() == 0
    assert page.evaluate("window.hacked") is None


@pytest.mark.parametrize("owner", ["command line", "x" * 33])
def test_a_forged_owner_sees_nothing_and_gets_a_new_token(context: BrowserContext, server: str, owner: str) -> None:
    page = opened(context, server)
    expect(page.locator(".page-sessions .empty-runs").first).to_be_visible()
    key = page.evaluate("Object.keys(localStorage).find((key) => key.includes('owner'))")
    page.evaluate("([key, owner]) => localStorage.setItem(key, JSON.stringify(owner))", [key, owner])
    page.reload()
    expect(page.locator(".page-sessions .empty-runs").first).to_contain_text("Nothing here yet")
    assert page.locator(".runs li[data-run]").count() == 0


def test_searching_finds_marks_and_never_complains(mine: BrowserContext, server: str) -> None:
    page = opened(mine, server)
    rows = page.locator(".runs li[data-run]")
    expect(rows.first).to_be_visible()
    page.fill(".sessions .search", "photosyn")
    expect(rows).to_have_count(1)
    expect(rows.locator("mark").first).to_have_text("photosynthesis", ignore_case=True)
    for words in ('"AND ( NEAR*', "'; DROP TABLE runs; --", "zzzz"):
        page.fill(".sessions .search", words)
        expect(page.locator(".page-sessions .empty-runs").first).to_contain_text("No run matches")
    page.fill(".sessions .search", "<img")
    expect(rows).to_have_count(1)
    page.keyboard.press("Escape")
    expect(rows.nth(2)).to_be_visible()
    page.locator(".filters").get_by_label("Method").select_option("greedy")
    expect(rows.filter(has_text="photosynthesis")).to_have_count(0)
    expect(rows.first).to_contain_text("Greedy")
    page.locator(".filters").get_by_role("button", name="clear").click()
    expect(rows.filter(has_text="photosynthesis")).to_have_count(1)


def test_the_keyboard_is_enough(mine: BrowserContext, server: str) -> None:
    page = opened(mine, server)
    rows = page.locator(".runs li[data-run]")
    expect(rows.nth(2)).to_be_visible()
    page.focus(".sessions .search")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    focused = "document.activeElement.closest('li')?.dataset.run"
    assert page.evaluate(focused) == rows.nth(1).get_attribute("data-run")
    page.keyboard.press("Enter")
    expect(page.locator(".page-play")).to_be_visible()


def test_a_name_and_a_star_stay(mine: BrowserContext, server: str) -> None:
    page = opened(mine, server)
    row = page.locator(".runs li[data-run]").filter(has_text="Say hello")
    expect(row).to_be_visible()
    button(row, "name")
    page.keyboard.type(f"greetings {MARKUP}")
    page.keyboard.press("Enter")
    expect(row.locator(".prompt.named")).to_have_text(f"greetings {MARKUP}")
    row.locator(".star").click()
    expect(page.locator(".card.sessions").first).not_to_have_attribute("aria-busy", "true")
    page.reload()
    expect(row.locator(".prompt.named")).to_have_text(f"greetings {MARKUP}")
    expect(row.locator(".star")).to_have_attribute("aria-pressed", "true")
    page.locator(".star-filter").click()
    expect(page.locator(".runs li[data-run]")).to_have_count(1)
    assert page.evaluate("window.hacked") is None


def test_two_runs_side_by_side(mine: BrowserContext, server: str) -> None:
    page = opened(mine, server)
    rows = page.locator(".runs li[data-run]")
    rows.filter(has_text="photosynthesis").locator("input").check()
    expect(page.get_by_role("button", name="side by side")).to_be_disabled()
    page.set_viewport_size({"width": 1366, "height": 420})
    box = page.locator(".selection").bounding_box()
    assert box is not None
    assert box["y"] + box["height"] <= 420, "what can be done with a selection is in sight, however long the list"
    rows.filter(has_text="rain").locator("input").check()
    page.get_by_role("button", name="side by side").click()
    panel = page.locator(".run-panel")
    expect(panel).to_contain_text("First difference at token")
    expect(panel.locator(".facts-table").last).to_contain_text("token-recycling")
    expect(panel.locator(".diff-head")).to_have_count(2)
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()


def test_a_run_again_is_identical_and_listed(mine: BrowserContext, server: str) -> None:
    page = opened(mine, server)
    rows = page.locator(".runs li[data-run]").filter(has_text="rain")
    expect(rows.first).to_be_visible()
    before = rows.count()
    button(rows.first, "run again")
    expect(page.locator(".run-panel .verdict")).to_contain_text("Identical, all", timeout=180_000)
    expect(rows).to_have_count(before + 1)


def test_branches_are_drawn_and_open(mine: BrowserContext, server: str) -> None:
    page = opened(mine, server)
    page.locator(".runs li[data-run]").filter(has_text="rain").last.locator(".session").click()
    expect(page.locator(".page-play .asked-prompt")).to_contain_text("rain")
    run = page.url
    page.locator(".tok[data-index='3']").click()
    page.locator(".popover button.alt").nth(1).click()
    page.wait_for_function("before => location.href !== before", arg=run, timeout=180_000)
    page.wait_for_function(ENDED, timeout=180_000)
    rows = sessions(page)
    button(rows.first, "branches")
    tree = page.locator(".tree li")
    expect(tree).to_have_count(2)
    expect(tree.nth(1)).to_contain_text("from token 4")
    tree.nth(0).locator("a").click()
    expect(page.locator(".page-play")).to_be_visible()


def test_two_tabs_lose_nothing(browser, server: str) -> None:  # type: ignore[no-untyped-def]
    """Both run, one names what the other stars, and one deletes what the other still shows."""
    context = browser.new_context(viewport={"width": 1366, "height": 768})
    context.set_default_timeout(30_000)
    one = opened(context, server, "")
    one.wait_for_selector(".tok")
    one.wait_for_timeout(1000)
    two = opened(context, server, "")
    for page, prompt in ((one, "first tab"), (two, "second tab")):
        page.fill("#prompt textarea", prompt)
        page.fill("#set-max_new_tokens", "12")
    one.click("#run")
    two.click("#run")
    for page in (one, two):
        page.wait_for_function("document.querySelectorAll('.tok[data-index]').length >= 12", timeout=180_000)
        page.wait_for_function(ENDED, timeout=180_000)
    page.wait_for_timeout(300)
    here, there = sessions(one), sessions(two)
    for rows in (here, there):
        expect(rows).to_have_count(2)
    button(here.filter(has_text="first tab"), "name")
    one.keyboard.type("from tab one")
    one.keyboard.press("Enter")
    there.filter(has_text="first tab").locator(".star").click()
    expect(there.filter(has_text="from tab one").locator(".star")).to_have_attribute("aria-pressed", "true")
    here.filter(has_text="second tab").locator("input").check()
    one.get_by_role("button", name="delete").click()
    one.locator(".selection").get_by_role("button", name="delete").click()
    expect(here).to_have_count(1)
    expect(here.filter(has_text="from tab one").locator(".star")).to_have_attribute("aria-pressed", "true")
    there.filter(has_text="second tab").locator(".star").click()
    expect(two.locator(".count")).to_contain_text("no longer there")
    expect(there).to_have_count(1)
    context.close()


def test_deleting_asks_first(mine: BrowserContext, server: str) -> None:
    page = opened(mine, server, "")
    make(page, "to be deleted", "greedy")
    rows = sessions(page)
    row = rows.filter(has_text="to be deleted")
    link = row.locator(".session").get_attribute("href") or ""
    row.locator("input").check()
    bar = page.locator(".selection")
    bar.get_by_role("button", name="delete").click()
    expect(bar).to_contain_text("Delete this run for good?")
    page.keyboard.press("Escape")
    expect(row).to_have_count(1)
    bar.get_by_role("button", name="delete").click()
    bar.get_by_role("button", name="delete").click()
    expect(row).to_have_count(0)
    expect(page.locator(".count")).to_contain_text("Deleted: 1")
    page.goto(server + link)
    expect(page.locator(".message.problem").first).to_contain_text("There is no run called")


def test_runs_go_out_and_come_in(mine: BrowserContext, context: BrowserContext, server: str, tmp_path: Path) -> None:
    page = opened(mine, server)
    page.locator(".runs li[data-run]").filter(has_text="photosynthesis").first.locator("input").check()
    with page.expect_download() as waiting:
        page.locator(".selection").get_by_role("button", name="export").click()
    file = tmp_path / "runs.jsonl.gz"
    waiting.value.save_as(file)
    assert gzip.decompress(file.read_bytes()).startswith(b'{"kind":"started"')
    other = opened(context, server)
    expect(other.locator(".page-sessions .empty-runs").first).to_be_visible()
    bring(other, file)
    row = other.locator(".runs li[data-run]")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("imported")
    row.locator(".session").click()
    expect(other.locator(".page-play .asked-prompt")).to_contain_text("photosynthesis")


def bring(page: Page, file: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.click("#import")
    chooser.value.set_files(file)


def test_a_bad_file_gets_one_sentence_with_the_line(context: BrowserContext, server: str, tmp_path: Path) -> None:
    page = opened(context, server)
    expect(page.locator(".page-sessions .empty-runs").first).to_be_visible()
    file = tmp_path / "bad.jsonl"
    file.write_text('{"kind":"note","text":"<script>window.hacked=1</script>"}\n')
    bring(page, file)
    expect(page.locator(".exchange .message.problem")).to_contain_text("Line 1 of the file")
    assert page.locator(".runs li[data-run]").count() == 0
    assert page.evaluate("window.hacked") is None


def test_sql_answers_and_refuses(mine: BrowserContext, server: str) -> None:
    page = opened(mine, server)
    expect(page.locator(".runs li[data-run]").first).to_be_visible()
    box = page.locator("details.sql")
    box.locator("> summary").click()
    box.get_by_role("button", name="methods in numbers").click()
    expect(box.locator(".sql-table")).to_contain_text("token-recycling")
    box.locator("textarea").fill("SELECT '<img src=x onerror=\"window.hacked=1\">' AS markup, count(*) FROM runs")
    page.keyboard.press("Control+Enter")
    expect(box.locator(".sql-table")).to_contain_text("<img src=x")
    with page.expect_download() as waiting:
        box.get_by_role("button", name="save as CSV").click()
    assert waiting.value.path().read_bytes().startswith(b"markup,count(*)\r\n")
    refused = {"DROP TABLE runs": "Only SELECT", "SELEC": "syntax error", "SELECT * FROM main.runs": "no such table"}
    for sql, says in refused.items():
        box.locator("textarea").fill(sql)
        box.get_by_role("button", name="Ask").click()
        expect(box.locator(".verdict.bad")).to_contain_text(says)
    assert page.evaluate("window.hacked") is None


def test_the_atlas_shows_rates_with_their_counts(mine: BrowserContext, server: str) -> None:
    page = opened(mine, server)
    expect(page.locator(".runs li[data-run]").first).to_be_visible()
    page.locator(".atlas summary").click()
    table = page.locator(".atlas-table")
    expect(table).to_contain_text("Token Recycling")
    expect(table.locator("td").first).to_contain_text("%")
    expect(table).to_contain_text("Questions")


@pytest.mark.parametrize("width", [390, 768, 1366])
def test_never_scrolls_sideways(mine: BrowserContext, server: str, width: int) -> None:
    page = opened(mine, server)
    expect(page.locator(".runs li[data-run]").first).to_be_visible()
    page.set_viewport_size({"width": width, "height": 844})
    page.locator(".atlas summary").click()
    page.locator("details.sql > summary").click()
    page.get_by_role("button", name="greatest doubts").click()
    expect(page.locator(".sql-table")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width

"""What one person hands to another: links, a dialog full of them, a frame, a class, large type, plain files."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from playground import run_card
from playground.gallery import write
from playground.links import encoded
from playground.setup import Setup

pytestmark = pytest.mark.browser

SETUP = Setup(
    method="sampling",
    prompt="Name\ntwo birds.",
    params={"temperature": 0.6},
    seed=41,
    max_new_tokens=9,
    stop=("\n", "b"),
)


def opened(page: Page, address: str) -> Page:
    """Another address in the same tab, settled."""
    page.goto(address)
    page.wait_for_selector(".tok")
    page.wait_for_selector(".share-open", state="attached")
    return page


def dialog(page: Page) -> Page:
    page.click(".share-open")
    page.wait_for_selector("dialog.share[open] .share-row")
    return page


def link(page: Page, name: str) -> str:
    return page.input_value(f"[data-row={name}] .link")


def test_a_link_to_a_set_up_fills_the_rail_and_runs_nothing(page: Page, server: str) -> None:
    opened(page, f"{server}?setup={encoded(SETUP)}")
    expect(page.locator(".notice")).to_contain_text("Press Run to see it happen")
    expect(page.locator("#method .chosen b")).to_have_text("Sampling")
    expect(page.locator("#prompt textarea")).to_have_value("Name\ntwo birds.")
    expect(page.locator("#set-temperature")).to_have_value("0.6")
    page.click(".controls details.more > summary")
    for name, value in {"seed": "41", "max_new_tokens": "9", "stop": "\\n|b"}.items():
        expect(page.locator(f"#set-{name}")).to_have_value(value)
    assert page.inner_text(".scrubber .status") == "recorded"
    page.get_by_role("button", name="Dismiss").click()
    expect(page.locator(".notice")).to_be_hidden()
    assert "setup=" not in page.url


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("setup=%3Cscript%3Ealert(1)%3C/script%3E", "no link is made of"),
        ("class=AXjaa1", "damaged or not whole"),
        (f"setup={encoded(Setup(method='samplin', prompt='x'))}", "samplin, which is not here. Try one of: sampling"),
    ],
)
def test_a_link_that_says_nothing_says_why(page: Page, server: str, query: str, said: str) -> None:
    before = page.input_value("#prompt textarea")
    opened(page, f"{server}?{query}")
    expect(page.locator(".notice.problem")).to_contain_text(said)
    expect(page.locator("#prompt textarea")).to_have_value(before)


def test_another_model_is_named_and_the_models_page_offered(page: Page, server: str) -> None:
    other = Setup(method="greedy", prompt="x", model="somebody/else", precision="bfloat16")
    opened(page, f"{server}?setup={encoded(other)}")
    expect(page.locator(".notice")).to_contain_text("made with somebody/else bfloat16; here it is smollm2-135m")
    page.get_by_role("button", name="Choose a model").click()
    expect(page.locator(".page-models")).to_be_visible()


def test_the_dialog_offers_everything_and_gives_the_keyboard_back(page: Page, server: str) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button = page.locator(".share-open")
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog.share[open] .share-row")
    assert link(page, "run") == f"{server}?run=recorded-token-recycling"
    page.click("[data-row=setup] .solid")
    expect(page.locator("dialog .spoken")).to_have_text("Copied: Link to this set-up.")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == link(page, "setup")
    assert copied.startswith(f"{server}?setup=")
    for _ in range(40):  # nothing behind the dialog is ever reached
        page.keyboard.press("Tab")
        inside = "document.activeElement === document.body || Boolean(document.activeElement.closest('dialog'))"
        assert page.evaluate(inside)
    page.keyboard.press("Escape")
    expect(page.locator("dialog.share")).to_be_hidden()
    assert page.evaluate("document.activeElement.className") == "share-open"
    opened(page, copied)
    expect(page.locator(".notice")).to_contain_text("A link brought this set-up")


def test_a_run_card_can_be_downloaded(page: Page) -> None:
    dialog(page)
    with page.expect_download() as download:
        page.click("[data-row=card] button")
    card = run_card.read(Path(download.value.path()).read_bytes())
    assert card.setup.method == "token-recycling"
    assert download.value.suggested_filename == "run-card-recorded-token-recycling.json"


def test_a_lecture_hall_can_scan_the_link(page: Page) -> None:
    dialog(page)
    page.click("[data-row=run] button[aria-expanded]")
    image = page.locator("[data-row=run] .qr img")
    expect(image).to_have_attribute("alt", "QR code: Link to this run")
    assert (image.get_attribute("src") or "").startswith("data:image/svg+xml")
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 20
    page.get_by_role("button", name="Large").click()
    box = image.bounding_box()
    assert box is not None
    assert box["width"] > 500


def test_a_class_cannot_change_prompt_and_seed_until_it_makes_them_its_own(page: Page, server: str) -> None:
    dialog(page)
    page.check("[data-row=class] input[type=checkbox]")
    assert link(page, "class").endswith("&run=recorded-token-recycling&projector=1")
    page.uncheck("[data-row=class] input[type=checkbox]")
    opened(page, link(page, "class"))
    expect(page.locator(".notice")).to_contain_text("Your teacher's link fixes prompt and seed")
    prompt = page.locator("#prompt textarea")
    expect(prompt).to_have_attribute("readonly", "")
    expect(page.locator(".page-play .prompt-tools")).to_be_hidden()
    page.click("#method .chosen")
    page.locator("#method .option[data-id='greedy']").click()
    expect(page.locator("#method .chosen b")).to_have_text("Greedy")
    expect(page.locator("#set-seed")).to_have_attribute("readonly", "")
    page.get_by_role("button", name="Make it yours").click()
    expect(prompt).not_to_have_attribute("readonly", "")
    assert "class=" not in page.url
    prompt.fill("My own words.")
    expect(prompt).to_have_value("My own words.")


def test_projector_mode_is_large_quiet_and_kept_by_the_tab(page: Page) -> None:
    size = """(() => {
        const token = document.querySelector('.tok');
        return parseFloat(getComputedStyle(token).fontSize) * token.currentCSSZoom;
    })()"""
    before = page.evaluate(size)
    page.focus("#prompt textarea")
    page.keyboard.type("p")
    assert not page.evaluate("document.documentElement.hasAttribute('data-projector')")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("p")
    expect(page.locator(".projector-told")).to_contain_text("Esc leaves")
    assert page.evaluate(size) == pytest.approx(1.5 * before)
    page.mouse.move(800, 500)
    page.wait_for_function("document.querySelector('.rail').getBoundingClientRect().right < 20")
    page.wait_for_function("document.querySelector('header.shell').getBoundingClientRect().bottom < 24")
    page.mouse.move(4, 300)
    page.wait_for_function("document.querySelector('.rail').getBoundingClientRect().left === 0")
    page.mouse.move(800, 500)
    page.focus("#run")
    page.wait_for_function("document.querySelector('.rail').getBoundingClientRect().left === 0")
    page.evaluate("document.activeElement.blur()")
    page.reload()
    page.wait_for_selector("html[data-projector] .tok")
    canvas = page.locator("[data-picture=draft-tree] .canvas")
    canvas.locator(".plot-container").wait_for()
    widths = canvas.evaluate("one => [one.getBoundingClientRect().width / one.offsetWidth]")
    assert widths == [pytest.approx(1.5, rel=0.01)]
    page.keyboard.press("Escape")
    page.wait_for_selector("html:not([data-projector])")


def test_projector_mode_can_come_with_the_link(page: Page, server: str) -> None:
    opened(page, f"{server}?projector=1")
    page.wait_for_selector("html[data-projector]")
    page.get_by_role("button", name="projector").dispatch_event("click")
    page.wait_for_selector("html:not([data-projector])")
    assert "projector" not in page.url


@pytest.fixture
def elsewhere(tmp_path: Path, server: str) -> Iterator[str]:
    """Another origin, with an article that frames a run as the dialog's code does."""
    frame = f'<iframe src="{server}?view=embed&amp;run=recorded-beam-search" width="700" height="640"></iframe>'
    (tmp_path / "article.html").write_text(f"<!doctype html><body style='background: #fc9'>{frame}", encoding="utf-8")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        yield f"http://localhost:{other.server_port}/article.html"
        other.shutdown()


def test_a_run_plays_in_a_frame_of_another_site(browser: Browser, elsewhere: str) -> None:
    page = browser.new_page(viewport={"width": 900, "height": 760})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(elsewhere)
    frame = page.frame_locator("iframe")
    frame.locator("html[data-embed='shown'] .tok").first.wait_for()
    frame.locator(".embed-foot a").wait_for()
    shown = frame.locator("header.shell, #run, #prompt, .shell-foot, .numbers, .share-open, .proof")
    assert [one.is_visible() for one in shown.all()] == [False] * shown.count()
    label = frame.locator(".page-play .step-label")
    expect(label).to_have_text("step 30 of 30", timeout=30_000)
    frame.locator(".tok[data-index='1']").click()
    expect(frame.locator(".popover .alt")).not_to_have_count(0)
    expect(frame.locator(".popover button.alt")).to_have_count(0)  # a reader of an article starts no run here
    frame.get_by_role("button", name="one step back").click()
    expect(label).to_have_text("step 29 of 30")
    frame.locator("[data-picture=beam-tree] .plot-container").wait_for()
    assert frame.locator("body").evaluate("body => getComputedStyle(body).backgroundColor") == "rgba(0, 0, 0, 0)"
    address = frame.locator(".embed-foot a").get_attribute("href") or ""
    assert address.endswith("?run=recorded-beam-search")
    assert problems == []
    page.close()


def test_a_frame_without_its_run_says_so(page: Page, server: str) -> None:
    page.goto(f"{server}?view=embed&run=no-such-run")
    expect(page.locator(".message.problem")).to_contain_text("no run called 'no-such-run'")
    expect(page.locator(".page-play .stage")).to_be_hidden()


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gallery")
    list(write(str(folder), ["recorded-prompt-lookup"], title="Three runs & more"))
    return folder


def test_a_gallery_plays_from_a_disk(browser: Browser, gallery: Path) -> None:
    page = browser.new_page(viewport={"width": 1366, "height": 768}, color_scheme="dark")
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request", lambda one: None if one.url.startswith(("file:", "data:", "blob:")) else problems.append(one.url)
    )
    page.goto((gallery / "index.html").as_uri())
    assert page.inner_text("h1") == "Three runs & more"
    page.click(".runs a")
    expect(page.locator(".step-label")).to_have_text("step 6 of 6")
    tokens = page.locator(".tok[data-index]").count()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".step-label")).to_have_text("step 5 of 6")
    page.wait_for_function(f"document.querySelectorAll('.tok[data-index]').length < {tokens}")
    canvas = page.locator("[data-picture=matches] .canvas")
    canvas.locator(".plot-container").wait_for()
    drawn = int(canvas.get_attribute("data-updates") or 0)
    page.get_by_role("button", name="play").first.click()
    expect(page.locator(".step-label")).to_have_text("step 6 of 6")
    page.wait_for_function(
        f"Number(document.querySelector('[data-picture=matches] .canvas').dataset.updates) > {drawn}"
    )
    page.locator("[data-picture=matches] .tools button").nth(2).click()
    expect(page.locator("[data-picture=matches] .narration")).to_contain_text("earlier")
    assert page.evaluate("document.body.classList.contains('dark')")
    page.get_by_role("button", name="light").click()
    assert not page.evaluate("document.body.classList.contains('dark')")
    page.locator(".tok[data-index='3']").click()
    expect(page.locator(".popover button.alt")).to_have_count(0)
    page.keyboard.press("Escape")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    card = json.loads((gallery / "run-recorded-prompt-lookup.json").read_text())
    assert card["setup"]["method"] == "prompt-lookup"
    assert problems == []
    page.close()

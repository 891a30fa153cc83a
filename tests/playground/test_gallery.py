from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.method import methods
from playground.cli import main
from playground.gallery import BadGallery, difference, frames, write
from playground.store import FILE_NAME, Store
from playground.ui.drawing import STREAM
from playground.ui.shelf import RECORDED, read_recording, steps
from tests.playground.stored_runs import whole_run
from visuals.picture import pictures

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def applied(old: Any, change: Any) -> Any:
    """What gallery.js does with a difference."""
    match change:
        case None:
            return old
        case ["=", value]:
            return value
        case ["|", start, gone, entries]:
            return [*old[:start], *entries, *old[start + gone :]]
        case ["@", length, changed, appended]:
            new = [*old[:length], *appended]
            for place, inner in changed.items():
                new[int(place)] = applied(old[int(place)], inner)
            return new
        case ["~", changed, gone]:
            new = dict(old) | {name: applied(old.get(name), inner) for name, inner in changed.items()}
            return {name: value for name, value in new.items() if name not in gone}
    raise AssertionError(change)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.floats(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text("ab~=", max_size=2), inner, max_size=4),
    max_leaves=30,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(JSON, JSON)
def test_a_difference_leads_from_one_value_to_the_other(old: Any, new: Any) -> None:
    change = json.loads(json.dumps(difference(old, new)))
    assert json.dumps(applied(old, change), sort_keys=True) == json.dumps(new, sort_keys=True)


def test_what_grows_costs_what_was_added() -> None:
    old = {"traces": [{"x": list(range(500)), "fill": "#fff"}, {"x": [1]}], "title": "a" * 300}
    new = {"traces": [{"x": [*range(500), 7], "fill": "#fff"}, {"x": [1]}, {"x": []}], "title": "a" * 300}
    assert len(json.dumps(difference(old, new))) < 120
    assert difference(old, json.loads(json.dumps(old))) is None


@pytest.fixture(scope="module")
def recycling() -> dict[str, Any]:
    events = read_recording(RECORDED, "prompt-lookup")
    data, shortened = frames(events, "recorded-prompt-lookup", methods(), pictures())
    assert shortened == []
    return {"events": events, **data}


def test_every_step_comes_back_whole(recycling: dict[str, Any]) -> None:
    events, frame = recycling["events"], recycling["first"]
    assert len(recycling["deltas"]) == len(steps(events)) - 1
    for step, change in enumerate(recycling["deltas"], start=1):
        frame = applied(frame, change)
        assert frame["scrubber"]["step"] == step
        assert "".join(token["text"] for token in frame["stream"]["tokens"]) in events[-1].text + "<|im_end|>"
    assert set(frame["plots"]) > {"confidence"}
    assert STREAM not in frame["plots"]
    assert all(plot["narration"] for plot in frame["plots"].values())


def test_a_run_that_is_too_large_keeps_its_text_and_shortens_its_largest_pictures(recycling: dict[str, Any]) -> None:
    size = len(msgspec.json.encode({"first": recycling["first"], "deltas": recycling["deltas"]}))
    events = recycling["events"]
    data, shortened = frames(events, "recorded-prompt-lookup", methods(), pictures(), most=int(0.9 * size))
    assert 0 < len(shortened) < len(recycling["first"]["plots"])
    assert len(msgspec.json.encode(data)) < size
    last = data["first"]
    for change in data["deltas"]:
        last = applied(last, change)
    fixed = [plot for plot in data["first"]["plots"].values() if plot["title"] in shortened]
    assert fixed == [plot for plot in last["plots"].values() if plot["title"] in shortened]
    assert last["stream"] != data["first"]["stream"]


@pytest.fixture
def hostile_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DECODING_PLAYGROUND_DATA", str(tmp_path / "data"))
    with Store.open(tmp_path / "data" / FILE_NAME) as store:
        kept = store.recording(iter(whole_run(prompt=HOSTILE, model=HOSTILE, machine=HOSTILE, method=HOSTILE)))
        list(kept)
    return kept.run_id or ""


def test_the_command_writes_plain_files(hostile_run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["gallery", str(out), "last", hostile_run, "--title", HOSTILE]) == 0
    assert "1 run\n" in capsys.readouterr().err
    pages = sorted(out.glob("*.html"))
    assert [page.name for page in pages] == ["index.html", f"run-{hostile_run}.html"]
    card = json.loads((out / f"run-{hostile_run}.json").read_text())
    assert card["setup"]["prompt"] == HOSTILE
    for page in pages:
        text = page.read_text()
        assert "<img" not in text
        assert text.count("<script>") == 0
        assert not re.findall(r"""(?:src|href)=["'](?!scripts/|gallery\.css|favicon\.svg|index\.html|run-)""", text)
        named = re.findall(r"""(?:src|href)=["']([^"']+)""", text)
        assert [name for name in named if not (out / name).is_file()] == []


def test_a_gallery_may_be_written_over_and_nothing_else(hostile_run: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    list(write(str(out), [hostile_run]))
    list(write(str(out), ["recorded-prompt-lookup"]))
    assert [page.name for page in sorted(out.glob("run-*.html"))] == ["run-recorded-prompt-lookup.html"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "run-1.html").write_text("mine")
    with pytest.raises(BadGallery, match="holds other files"):
        list(write(str(tmp_path / "photos"), [hostile_run]))
    assert (tmp_path / "photos" / "run-1.html").read_text() == "mine"


@pytest.mark.parametrize("arguments", [[], ["no-such-run"], ["last"]])
def test_a_gallery_of_nothing_is_refused(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DECODING_PLAYGROUND_DATA", str(tmp_path / "data"))
    assert main(["gallery", str(tmp_path / "out"), *arguments]) == 2
    assert capsys.readouterr().err.startswith("playground: ")

"""Runs out of one database and into another: nothing is lost on the way, and nothing unsound comes in."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engines.events import Event, Finished, to_json
from playground import exchange
from playground.cli import main
from playground.exchange import BadFile, import_runs, read_runs, write_runs
from playground.store import Store, Unwritable
from playground.ui.drawing import Canvas
from playground.ui.shelf import RECORDED, read_recording
from tests.playground.stored_runs import on_disk, started, whole_run
from visuals.picture import pictures

ME, YOU = "m" * 32, "y" * 32
SHIPPED = sorted(file.name.split(".")[0] for file in RECORDED.glob("*.jsonl*"))


def lines(*runs: Sequence[Event]) -> bytes:
    return b"".join(to_json(event) + b"\n" for events in runs for event in events)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "runs.jsonl"


def exported(store: Store, owner: str, ids: list[str] | None = None) -> bytes:
    out = io.BytesIO()
    write_runs(store, owner, out, ids)
    return out.getvalue()


# There and back


def test_what_goes_out_comes_in_again(store: Store, file: Path, tmp_path: Path) -> None:
    for prompt in ("one", "two"):
        list(store.recording(iter(whole_run(prompt=prompt)), owner=ME))
    file.write_bytes(exported(store, ME))
    with Store.open(tmp_path / "other" / "runs.sqlite") as other:
        ids = import_runs(other, YOU, file)
        assert [other.run(id).prompt for id in ids] == ["two", "one"]
        assert [other.events(id) for id in ids] == [whole_run(prompt="two"), whole_run(prompt="one")]
        (run, _) = other.runs(YOU)
        assert (run.status, run.reason, run.text, run.owner) == ("finished", "end of text", "Once upon😀\x00<b>\n", YOU)
        assert run.totals is not None
        assert run.imported is not None


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_run_comes_in_as_it_is(store: Store, name: str) -> None:
    path = next(RECORDED.glob(f"{name}.jsonl*"))
    (id,) = import_runs(store, ME, path)
    assert store.events(id) == read_recording(RECORDED, name)


def test_imported_runs_get_new_ids_and_are_marked(store: Store, file: Path) -> None:
    kept = store.recording(iter(whole_run()), owner=ME)
    list(kept)
    file.write_bytes(exported(store, ME))
    (id,) = import_runs(store, ME, file)
    assert id != kept.run_id
    assert store.run(id).imported
    assert not store.run(kept.run_id or "").imported


def test_a_run_that_was_cut_short_comes_in_interrupted(store: Store, file: Path) -> None:
    file.write_bytes(lines(whole_run()[:5]))
    (id,) = import_runs(store, ME, file)
    assert (store.run(id).status, store.run(id).text) == ("interrupted", "Once upon")


def test_only_ones_own_runs_go_out(store: Store) -> None:
    mine = store.recording(iter(whole_run(prompt="mine")), owner=ME)
    yours = store.recording(iter(whole_run(prompt="a secret")), owner=YOU)
    list(mine), list(yours)
    assert exported(store, ME) == lines(whole_run(prompt="mine"))
    assert exported(store, ME, [yours.run_id or "", "unknown"]) == b""
    assert exported(store, ME, [mine.run_id or ""]) == lines(whole_run(prompt="mine"))
    assert exported(store, "") == b""


def test_what_has_no_room_is_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        list(store.recording(iter(whole_run()), owner=ME))
    monkeypatch.setattr(exchange, "MOST_RUNS", 2)
    out = io.BytesIO()
    assert write_runs(store, ME, out) == exchange.Exported(2, 1)
    assert out.getvalue() == lines(whole_run(), whole_run())
    monkeypatch.setattr(exchange, "LARGEST_UNPACKED", len(lines(whole_run())) + 10)
    assert write_runs(store, ME, io.BytesIO()) == exchange.Exported(1, 2)


@pytest.mark.parametrize(
    "pack",
    [
        lambda data: data,
        gzip.compress,
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: b"\n\n" + data.replace(b"\n", b"\r\n\r\n"),
    ],
    ids=["plain", "gzip", "byte order mark", "blank lines"],
)
def test_gzip_marks_and_blank_lines_do_not_matter(file: Path, pack: Any) -> None:
    file.write_bytes(pack(lines(whole_run(), whole_run()[:3])))
    assert list(read_runs(file)) == [whole_run(), whole_run()[:3]]


# What does not come in

WHOLE = lines(whole_run()).splitlines()


def changed(number: int, **fields: Any) -> bytes:
    """A whole run whose line `number`, from 1, is changed."""
    line = json.dumps(json.loads(WHOLE[number - 1]) | fields).encode()
    return b"\n".join([*WHOLE[: number - 1], line, *WHOLE[number:]])


BAD = {
    "empty": (b"", "is empty"),
    "blank": (b"\n\n  \n", "is empty"),
    "text": (b"Dear diary,\n", "Line 1 .* not JSON"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "Line 1 .* not JSON"),
    "list": (b"[]\n", "Line 1 .* not an event"),
    "markup": (WHOLE[0] + b"\n<script>alert(1)</script>\n", "Line 2 .* not JSON"),
    "no start": (b"\n".join(WHOLE[1:]), "Line 1 .* before the start"),
    "unknown kind": (WHOLE[0] + b'\n{"kind":"explosion"}\n', "Line 2 .* not an event"),
    "missing field": (b'{"kind":"started"}\n', "Line 1 .* missing"),
    "wrong type": (changed(1, seed="seven"), "Line 1 .*Expected `int`"),
    "deep": (b'{"kind":"note","text":' + b"[" * 100_000, "Line 1"),
    "not utf-8": (changed(1, prompt="PROMPT").replace(b"PROMPT", b"\xff\xfe"), "Line 1 .* not JSON, or not text"),
    "surrogate": (changed(1, prompt="PROMPT").replace(b"PROMPT", rb"\ud800"), "Line 1 .* not JSON, or not text"),
    "huge number": (changed(1, seed=10**30), "Line 1 .* seed"),
    "infinite": (changed(3, time="T").replace(b'"T"', b"1e999"), "Line 3"),
    "not a number": (changed(3, time="T").replace(b'"T"', b"NaN"), "Line 3"),
    "out of order": (b"\n".join([WHOLE[0], WHOLE[2], WHOLE[1]]), "Line 3 .* out of order"),
    "twice": (b"\n".join([WHOLE[0], WHOLE[1], WHOLE[1]]), "Line 3 .* out of order"),
    "back in time": (changed(2, time=5.0), "Line 3 .* back in time"),
    "negative time": (changed(1, time=-1.0), "Line 1 .* back in time"),
    "a gap": (changed(3, position=7), "Line 3 .* gap"),
    "far away": (changed(2, position=10**12), "Line 2 .* position"),
    "share": (changed(3, tokens=[{"token": {"id": 1, "text": "a"}, "origin": "sampled", "raw": 7}]), "Line 3 .* share"),
    "other tokens": (changed(12, token_ids=[1, 2, 3]), "Line 12 .* other tokens"),
    "other sums": (changed(12, totals=json.loads(WHOLE[11])["totals"] | {"accepted": 9}), "Line 12 .* accepted"),
    "after": (b"\n".join([*WHOLE, b'{"kind":"note","seq":99,"time":9,"text":"x"}']), "Line 13 .* after the end"),
    "second run": (b"\n".join([*WHOLE, WHOLE[0], b"oops"]), "Line 14 .* not JSON"),
    "long name": (changed(1, model="m" * 1000), "Line 1 .* too long"),
    "damaged gzip": (gzip.compress(b"\n".join(WHOLE))[:-20], "damaged"),
    "gzip of noise": (b"\x1f\x8b" + bytes(100), "damaged"),
}


@pytest.mark.parametrize(("content", "says"), BAD.values(), ids=BAD)
def test_an_unsound_file_is_one_clear_sentence_and_nothing_is_kept(
    store: Store, file: Path, content: bytes, says: str
) -> None:
    file.write_bytes(content)
    with pytest.raises(BadFile, match=says) as refused:
        import_runs(store, ME, file)
    assert str(refused.value).endswith("Nothing was imported.")
    assert len(str(refused.value)) < 300
    assert on_disk(store.path, "SELECT count(*) FROM runs") == [(0,)]


def draft(**fields: Any) -> bytes:
    """The start of a run, a draft of two guesses and a verdict on it; `fields` change draft or verdict."""
    token = {"id": 1, "text": "x"}
    drafted: dict[str, Any] = {
        "kind": "draft",
        "seq": 1,
        "position": 0,
        "nodes": [
            {"id": 0, "parent": -1, "token": token, "q": None, "source": "root"},
            {"id": 1, "parent": 0, "token": token, "q": None, "source": "s"},
        ],
    }
    verdict: dict[str, Any] = {
        "kind": "verdict",
        "seq": 2,
        "position": 0,
        "rule": "greedy",
        "path": [1],
        "nodes": [{"id": 1, "outcome": "accepted"}],
        "extra": token,
        "extra_origin": "bonus",
    }
    for name, value in fields.items():
        (drafted if name == "guesses" else verdict)["nodes" if name in ("guesses", "judged") else name] = value
    return b"\n".join([WHOLE[0], json.dumps(drafted).encode(), json.dumps(verdict).encode()])


def node(id: int, parent: int) -> dict[str, Any]:
    return {"id": id, "parent": parent, "token": {"id": 1, "text": "x"}, "q": None, "source": "s"}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"guesses": [node(0, -1), node(1, 7)]}, "Line 2 .* hangs on nothing"),
        ({"guesses": [node(0, -1), node(1, 1)]}, "Line 2 .* hangs on nothing"),
        ({"guesses": [node(0, -1), node(0, 0)]}, "Line 2 .* twice"),
        ({"guesses": [node(0, 0)]}, "Line 2 .* root"),
        ({"guesses": []}, "Line 2 .* no guess"),
        ({"path": [5]}, "Line 3 .* nobody made"),
        ({"path": [1, 1]}, "Line 3 .* twice"),
        ({"judged": [{"id": 9, "outcome": "rejected"}]}, "Line 3 .* nobody made"),
    ],
)
def test_a_draft_that_is_no_tree_does_not_come_in(file: Path, fields: dict[str, Any], says: str) -> None:
    file.write_bytes(draft())
    assert len(list(read_runs(file))) == 1
    file.write_bytes(draft(**fields))
    with pytest.raises(BadFile, match=says):
        list(read_runs(file))


def test_markup_comes_in_as_text(store: Store, file: Path) -> None:
    file.write_bytes(lines(whole_run(prompt="<img src=x onerror=alert(1)>")))
    (id,) = import_runs(store, ME, file)
    assert store.run(id).prompt == "<img src=x onerror=alert(1)>"


@pytest.mark.parametrize(
    ("limit", "value", "says"),
    [
        ("LARGEST_FILE", 1000, "larger than"),
        ("LARGEST_UNPACKED", 1000, "larger than"),
        ("LONGEST_LINE", 300, "Line 1 .* longer than"),
        ("MOST_EVENTS", 5, "Line 6 .* more than 5 events"),
        ("MOST_RUNS", 1, "more than 1 runs"),
    ],
)
def test_everything_is_bounded(
    store: Store, file: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, says: str
) -> None:
    monkeypatch.setattr(exchange, limit, value)
    file.write_bytes(lines(whole_run(), whole_run()))
    with pytest.raises(BadFile, match=says):
        import_runs(store, ME, file)
    assert store.runs() == []


def test_a_gzip_bomb_is_not_unpacked(store: Store, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "LARGEST_UNPACKED", 2**20)
    file.write_bytes(gzip.compress(b" \n" * 50_000_000))
    assert file.stat().st_size < 2**20
    with pytest.raises(BadFile, match="when unpacked"):
        import_runs(store, ME, file)


def test_a_database_that_cannot_be_written_is_said(store: Store, file: Path) -> None:
    file.write_bytes(lines(whole_run()))
    store.close()
    with pytest.raises(Unwritable, match="closed"):
        import_runs(store, ME, file)


# Whatever comes in can be drawn


def mangled(rng: random.Random, values: Any) -> Any:
    """Some number, word or piece of a JSON value changed, moved or left out."""
    match values:
        case dict() if values:
            name = rng.choice(list(values))
            if name == "kind" or rng.random() < 0.05:
                return {key: value for key, value in values.items() if key != name}
            return values | {name: mangled(rng, values[name])}
        case list() if values:
            place = rng.randrange(len(values))
            match rng.random():
                case chance if chance < 0.1:
                    return values[:place] + values[place + 1 :]
                case chance if chance < 0.2:
                    return [*values, values[place]]
            return [*values[:place], mangled(rng, values[place]), *values[place + 1 :]]
        case bool() | None:
            return rng.choice([True, False, None, 1])
        case int() | float():
            return rng.choice([0, -1, 1, 2, values + 1, values * -1, 0.5, 10**6, 10**12, 1e300, 2**63, None])
    return rng.choice(["", "<b>", "greedy", "\u0000", "x" * 3000, None])


def read(file: Path) -> tuple[list[Event], str]:
    """The only run of a file, or why there is none."""
    try:
        (run,) = read_runs(file)
    except BadFile as refused:
        return [], str(refused)
    return run, ""


SOURCES = ("beam-search", "prompt-lookup", "sampling-hot", "token-recycling")


@pytest.mark.parametrize("name", SOURCES)
def test_a_mangled_run_is_refused_or_can_be_drawn(file: Path, name: str) -> None:
    """The rule that makes imports safe: what is let in, every picture can show."""
    rng = random.Random(name)
    events = [json.loads(to_json(event)) for event in read_recording(RECORDED, name)][:60]
    kept = 0
    for _ in range(60):
        place = rng.randrange(len(events))
        some = [*events[:place], mangled(rng, events[place]), *events[place + 1 :]]
        file.write_bytes(b"\n".join(json.dumps(event).encode() for event in some))
        run, why = read(file)
        assert len(why) < 400
        if not run:
            continue
        kept += 1
        for picture in pictures().values():
            if picture.relevant(run):
                picture.draw(run), picture.table(run), picture.narrate(run)
        Canvas(pictures(), {}, "run").at(run, keep=False)
    assert kept > 5, "the fuzz must let something through, or it proves nothing"


def test_noise_is_refused(file: Path) -> None:
    rng = random.Random(1)
    whole = bytearray(lines(whole_run()))
    for _ in range(200):
        noisy = bytearray(whole)
        for _ in range(rng.randrange(1, 6)):
            noisy[rng.randrange(len(noisy))] = rng.randrange(256)
        file.write_bytes(noisy)
        try:
            runs = list(read_runs(file))
        except BadFile:
            continue
        assert all(isinstance(event, Event) for run in runs for event in run)


def test_the_end_is_where_the_file_says(file: Path) -> None:
    file.write_bytes(lines(whole_run()))
    (run,) = read_runs(file)
    assert isinstance(run[-1], Finished)
    assert run[0] == started()


# The command line


def test_import_and_search_on_the_command_line(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DECODING_PLAYGROUND_DATA", str(tmp_path / "data"))
    file.write_bytes(lines(whole_run(prompt="why \x1b[31m red"), whole_run(prompt="a blue one")))
    assert main(["import", str(file)]) == 0
    first, second = capsys.readouterr().out.split()
    assert main(["search", "blue"]) == 0
    out = capsys.readouterr().out
    assert second in out
    assert first not in out
    assert main(["search", "--json", "--method", "greedy"]) == 0
    assert [run["id"] for run in json.loads(capsys.readouterr().out)] == [second, first]
    assert main(["search", "red"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert main(["search", "nothing like it"]) == 0
    assert capsys.readouterr().err == "playground: No run matches.\n"
    file.write_bytes(b"oops")
    assert main(["import", str(file)]) == 2
    assert capsys.readouterr().err.startswith("playground: Line 1 of the file: ")
    assert main(["import", str(tmp_path / "missing")]) == 1
    assert main(["search", "--since", "yesterday"]) == 2

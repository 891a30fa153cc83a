"""The analyser: what it offers, what it must never do, and that it comes back from anything."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.grammars.analyser import MOST_CHARACTERS, Analyser, analyser

SHOP = """\
class Shop:
    price = 3

    def __init__(self) -> None:
        self.open = True

    def sell(self, count: int) -> "Shop":
        return self

    def _count(self) -> int:
        return 0
"""


@pytest.fixture(scope="module")
def asked() -> Analyser:
    """The shared one, which may take its time on a busy machine."""
    shared = analyser()
    shared.seconds = 5.0
    assert shared.warm_up()
    return shared


@pytest.fixture(scope="module")
def own() -> Iterator[Analyser]:
    """One of our own, to be driven to its limits."""
    own = Analyser()
    yield own
    own.close()


@pytest.fixture
def hasty(own: Analyser) -> Analyser:
    """The same, at its usual speed."""
    own.seconds = 30.0
    assert own.warm_up()
    own.seconds = 1.0
    return own


def public(asked: Analyser, code: str, closers: str = "") -> set[str]:
    return {name for name in asked.names(SHOP + code, closers).names if not name.startswith("_")}


def test_it_offers_methods_class_values_and_what_init_sets(asked: Analyser) -> None:
    assert public(asked, "Shop().") == {"sell", "open", "price"}


@pytest.mark.parametrize(
    "code",
    [
        "def f(shop: Shop):\n    shop.",
        "shop = Shop()\nprint(shop.",
        "x = [Shop().sell(1)]\nfor one in x:\n    one.",
        "d = {'a': (Shop(), [1, Shop().sell(2).",
        "def f(shops: list[Shop]):\n    return shops[0].sell(",
        "print(f'{Shop().",
    ],
)
def test_it_follows_annotations_returns_loops_and_unfinished_code(asked: Analyser, code: str) -> None:
    assert {"sell", "open", "price"} <= public(asked, code) or code.endswith("(")


def test_names_are_whole_and_no_keyword_is_among_them(asked: Analyser) -> None:
    names = asked.names("class A:\n    def sell(self): pass\nA().se").names
    assert names == ("sell",)
    assert not {"if", "None", "return"} & set(asked.names("x = ").names)


def test_it_knows_the_standard_library_by_its_stubs(asked: Analyser) -> None:
    assert {"dumps", "loads"} <= set(asked.names("import json\njson.").names)
    assert {"upper", "split"} <= set(asked.names("'a'.").names)


def test_it_knows_nothing_of_installed_packages_and_of_types_it_cannot_infer(asked: Analyser) -> None:
    for code in ("import numpy\nnumpy.", "import plotly\nplotly.", "def f(x):\n    x."):
        answer = asked.names(code)
        assert (answer.names, answer.trouble) == ((), "")


def test_the_same_question_is_answered_from_memory(asked: Analyser) -> None:
    first = asked.names(SHOP + "y = Shop().")
    start = time.perf_counter()
    for _ in range(50):
        assert asked.names(SHOP + "y = Shop().").names == first.names
    assert time.perf_counter() - start < 0.1


HOSTILE = {
    "a call at the top": "__import__('os').system('touch {mark}')\nx = 'a'\nx.",
    "a file that is opened": "open('{mark}', 'w').write('x')\nimport os\nos.",
    "a decorator": "import pathlib\n@pathlib.Path('{mark}').touch\nclass A:\n    def foo(self): pass\nA.",
    "a metaclass": "class M(type):\n    def __getattr__(c, n): open('{mark}', 'w')\nclass A(metaclass=M): pass\nA.",
    "a property": "class A:\n    @property\n    def x(self):\n        open('{mark}', 'w')\n        return 'a'\nA().x.",
    "eval": "eval(\"open('{mark}', 'w')\").",
    "modules that act when imported": "import antigravity, this\nimport {module}\n{module}.",
    "a plugin": "import sys\nsys.path.insert(0, '{folder}')\nfrom {module} import thing\nthing.",
}


@pytest.mark.parametrize("code", HOSTILE.values(), ids=HOSTILE.keys())
def test_code_is_never_executed(asked: Analyser, code: str, tmp_path: Path) -> None:
    mark, module = tmp_path / "mark", "evil_module"
    (tmp_path / f"{module}.py").write_text(f"open({str(mark)!r}, 'w')\nthing = 'a'\n")
    start = time.perf_counter()
    asked.names(code.replace("{mark}", str(mark)).replace("{module}", module).replace("{folder}", str(tmp_path)))
    assert time.perf_counter() - start < 3 + asked.seconds
    assert not mark.exists()


def test_a_module_beside_the_program_is_not_read(
    asked: Analyser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside.py").write_text("thing = 'a'\n")
    monkeypatch.chdir(tmp_path)
    assert asked.names("import beside\nbeside.").names == ()


STRANGE = {
    "nothing": "",
    "only a dot": ".",
    "null bytes": "\x00\x00x.",
    "half a character": "\ud800.",
    "other line ends": "x = 'a'\r\ny = x\x0c\x0b\x1c\u2028\r.",
    "brackets, deeply": "(" * 3000 + "a.",
    "attributes, endlessly": "a" + ".a" * 20_000 + ".",
    "100 kB": "x = [1, 2, {'a': 'b'}]\n" * 4400 + "x.",
    "one long line": "x = '" + "y" * 100_000 + "'; x.",
    "classes that inherit themselves": "class A(A): pass\nclass B(C): pass\nclass C(B): pass\nA().b.c.B().",
    "an endless alias": "a = a.b\nb = a.a\na.b.a.",
}


@pytest.mark.parametrize("code", STRANGE.values(), ids=STRANGE.keys())
def test_anything_is_answered_in_time_and_the_next_question_too(hasty: Analyser, code: str) -> None:
    start = time.perf_counter()
    answer = hasty.names(code)
    assert time.perf_counter() - start < 3
    assert answer.trouble in ("", "late", "failed")
    hasty.seconds = 20.0
    assert "upper" in hasty.names("'a'.").names


def test_too_much_code_is_not_even_sent(hasty: Analyser) -> None:
    answer = hasty.names("x" * (MOST_CHARACTERS + 1))
    assert (answer.names, answer.trouble) == ((), "too long")
    assert answer.seconds == 0


def test_a_worker_that_hangs_is_replaced_and_the_answer_is_not_remembered(hasty: Analyser) -> None:
    first, before = hasty._worker, hasty.restarts
    assert first is not None
    code = SHOP + "x = [Shop().sell(1)]\n" * 2000 + "x[0]."
    hasty.seconds = 0.02
    late = hasty.names(code)
    assert (late.names, late.trouble, hasty.restarts) == ((), "late", before + 1)
    assert late.seconds < 1
    assert not first.alive
    hasty.seconds = 20.0
    assert "sell" in hasty.names(code).names


def test_a_worker_that_dies_is_replaced(hasty: Analyser) -> None:
    assert hasty._worker is not None
    hasty._worker._process.kill()
    hasty._worker._process.wait()
    hasty.seconds = 20.0
    assert "upper" in hasty.names("'a'.").names


def test_the_worker_has_no_environment_no_files_of_ours_and_its_limits(hasty: Analyser) -> None:
    assert hasty._worker is not None
    proc = Path(f"/proc/{hasty._worker._process.pid}")
    if not proc.exists():
        pytest.skip("no /proc here")
    assert proc.joinpath("environ").read_bytes().strip(b"\0") == b""
    folder = proc.joinpath("cwd").resolve()
    assert folder.name.startswith("analyser-")
    assert not list(folder.rglob("*.py"))
    limits = {line[:25].strip(): line[26:46].strip() for line in proc.joinpath("limits").read_text().splitlines()}
    assert limits["Max address space"] == str(1 << 30)
    assert limits["Max processes"] == limits["Max core file size"] == "0"
    assert list(proc.joinpath("task").iterdir()) == [proc / "task" / proc.name]


def test_threads_take_turns(asked: Analyser) -> None:
    found: dict[int, set[str]] = {}

    def ask(number: int) -> None:
        found[number] = set(asked.names(f"class A:\n    def name_{number}(self): pass\nA().").names)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(f"name_{number}" in names and f"name_{number + 1}" not in names for number, names in found.items())
    assert len(found) == 8

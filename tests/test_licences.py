"""Every package that the playground runs on is listed, with a licence that it may be used under."""

from __future__ import annotations

import re

import pytest

from benchmarks import licences
from benchmarks.licences import LOCK, NOTES, PAGE, Unfit, is_permissive, licence, locked, page


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(LOCK.read_text(encoding="utf-8")), "run: make licences"


def test_every_locked_package_is_on_it() -> None:
    listed = dict(re.findall(r"^\| ([\w.-]+) \| (\d[\w.]*) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == locked(LOCK.read_text(encoding="utf-8"))
    assert len(listed) > 50


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MIT", True),
        ("MIT AND BSD-3-Clause", True),
        ("GPL-3.0-only OR MIT", True),
        ("Apache-2.0 WITH LLVM-exception AND MIT", True),
        ("GPL-3.0-only", False),
        ("AGPL-3.0-or-later AND MIT", False),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", False),
        ("LGPL-2.1", False),
        ("Proprietary", False),
        ("", False),
    ],
)
def test_permissive_means_every_part_of_it(expression: str, expected: bool) -> None:
    assert is_permissive(expression) is expected


def test_a_licence_that_asks_for_more_needs_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "MPL" in licence("certifi")
    monkeypatch.delitem(NOTES, "certifi")
    with pytest.raises(Unfit, match=r"certifi is under MPL-2\.0"):
        page("certifi==1.0\n")


def test_a_package_that_says_nothing_is_refused() -> None:
    with pytest.raises(Unfit, match="no licence that can be read"):
        page("surely-nobody-has-installed-this==1.0\n")


def test_no_note_is_for_a_package_that_is_gone() -> None:
    assert {*NOTES, *licences.UNSAID} <= set(locked(LOCK.read_text(encoding="utf-8")))

"""Colours have meaning, are readable in both themes, and can be exchanged one for one."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from engines.events import Origin
from visuals.palette import (
    DARK,
    LIGHT,
    ROLE_OF_ORIGIN,
    ROLES,
    SURE,
    contrast,
    css_roles,
    css_variables,
    dark_of,
    mix,
    sure_ink,
    sure_level,
)

THEMES = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])


def test_contrast_is_wcags() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert mix("#000000", "#ffffff", 0.5) == "#808080"


@THEMES
@pytest.mark.parametrize("role", ROLES)
def test_text_on_a_tint_is_readable(theme: dict[str, str], role: str) -> None:
    assert contrast(theme[f"{role}-bg"], theme[f"{role}-ink"]) >= 4.5


@THEMES
@pytest.mark.parametrize("ground", ["bg", "panel"])
def test_words_and_inks_are_readable_on_the_page(theme: dict[str, str], ground: str) -> None:
    for ink in ("ink", "soft", "accent", *(f"{role}-ink" for role in ROLES)):
        assert contrast(theme[ground], theme[ink]) >= 4.5, ink
    assert contrast(theme["accent"], theme["accent-ink"]) >= 4.5


@THEMES
@pytest.mark.parametrize("p", [0.0, 0.01, 0.05, 0.2, 0.4, 0.6, 0.74, 0.75, 0.89, 0.95, 1.0])
def test_text_in_a_confidence_cell_is_readable(theme: dict[str, str], p: float) -> None:
    ink = theme["accent-ink"] if sure_ink(p) == LIGHT["accent-ink"] else theme["ink"]
    assert contrast(theme[f"sure-{sure_level(p)}"], ink) >= 4.5


@THEMES
def test_surer_cells_stand_out_more(theme: dict[str, str]) -> None:
    steps = [contrast(theme["panel"], theme[f"sure-{level}"]) for level in range(len(SURE))]
    assert steps == sorted(steps)
    assert len(set(steps)) == len(steps)


@THEMES
def test_bars_and_edges_can_be_told_from_the_panel(theme: dict[str, str]) -> None:
    for role in ROLES:
        assert contrast(theme["panel"], theme[f"{role}-ink"]) >= 3
        assert contrast(theme[f"{role}-bg"], theme[f"{role}-edge"]) >= 1.8


def test_every_light_colour_has_one_dark_counterpart() -> None:
    for name, colour in LIGHT.items():
        assert dark_of[colour] == DARK[name], f"{name} shares {colour} with a role that is another colour in the dark"
    assert LIGHT.keys() == DARK.keys()


def test_colour_is_never_alone() -> None:
    channels = [(role.mark, role.border, role.struck) for role in ROLES.values()]
    assert len(set(channels)) == len(channels)
    marks = [role.mark for role in ROLES.values()]
    assert len(set(marks)) == len(marks)


def test_every_origin_has_a_role() -> None:
    assert set(ROLE_OF_ORIGIN) == set(get_args(Origin))
    assert set(ROLE_OF_ORIGIN.values()) <= set(ROLES)


def test_style_text_has_both_themes() -> None:
    light, dark = css_variables().split("\n")
    assert light.startswith(":root{")
    assert dark.startswith(".dark{")
    for name in LIGHT:
        assert f"--{name}:{LIGHT[name]};" in light
        assert f"--{name}:{DARK[name]};" in dark
    used = set(re.findall(r"var\(--([a-z0-9-]+)\)", css_roles()))
    assert used <= LIGHT.keys()
    assert ".tok.rejected{" in css_roles()

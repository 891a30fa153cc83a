"""The diverging scale: readable and telling in both themes, symmetric, and never taken for an empty place."""

from __future__ import annotations

import pytest

from visuals.palette import DARK, EFFECT, EFFECT_SCALE, LIGHT, contrast, dark_of, effect_ink, effect_level

THEMES = pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])


def shown(colour: str, dark: bool) -> str:
    return dark_of[colour] if dark else colour


@THEMES
def test_text_on_every_tone_is_readable(dark: bool) -> None:
    for level, tone in enumerate(EFFECT):
        assert contrast(shown(tone, dark), shown(effect_ink(level), dark)) >= 4.5


@THEMES
def test_stronger_effects_stand_out_more_on_either_side(dark: bool) -> None:
    panel = (DARK if dark else LIGHT)["panel"]
    steps = [contrast(panel, shown(tone, dark)) for tone in EFFECT]
    assert steps[:4] == sorted(steps[:4], reverse=True)
    assert steps[3:] == sorted(steps[3:])
    assert len(set(steps)) == len(steps)
    assert steps[3] > 1.1, "nothing measured and no effect must not look alike"


def test_the_scale_goes_from_against_over_nothing_to_for() -> None:
    assert [place for place, _ in EFFECT_SCALE] == pytest.approx([0, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1])
    assert EFFECT_SCALE[3][1] == LIGHT["even"]
    shares = [-9, -1, -0.6, -0.5, -0.25, -0.1, -0.05, -0.04, 0, 0.04, 0.05, 0.1, 0.25, 0.5, 0.6, 1, 9]
    levels = [effect_level(share) for share in shares]
    assert levels == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 4, 4, 5, 5, 6, 6, 6]
    assert [6 - level for level in levels] == levels[::-1]

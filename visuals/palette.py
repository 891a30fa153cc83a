"""One palette with meaning: every colour stands for a role, and never speaks alone.

A *role* is what became of a token: the model's own, a confirmed guess, a refused one … Each role has a tint
(background), an ink (text on it) and an edge in two themes, and a second channel beside the colour: a mark, a line
under the token, or a line through it.

Drawings are made with the light colours. `dark_of` turns each of them into its dark counterpart, so a browser can
restyle a figure by exact replacement of colour strings, without asking the server.
"""

from __future__ import annotations

from dataclasses import dataclass

from engines.events import Origin

LIGHT: dict[str, str] = {
    "bg": "#f7f7f5",
    "panel": "#ffffff",
    "line": "#e3e2dd",
    "ink": "#1c1e21",
    "soft": "#5b6068",
    "accent": "#1f4fd8",
    "accent-ink": "#fefefe",  # not #ffffff: its dark counterpart differs from the panel's
    "target-bg": "#f1f1ee",
    "target-ink": "#1c1e21",
    "accepted-bg": "#d5f0e3",
    "accepted-ink": "#0a5540",
    "bonus-bg": "#dbe6ff",
    "bonus-ink": "#173a9e",
    "rejected-bg": "#fbdcd5",
    "rejected-ink": "#8f2413",
    "untested-bg": "#ececec",
    "untested-ink": "#5b6068",
    "forced-bg": "#eadfff",
    "forced-ink": "#54219e",
    "copied-bg": "#fbeac4",
    "copied-ink": "#6f4700",
    "undecided-bg": "#e6e6e6",
    "undecided-ink": "#575c64",
    "given-bg": "#eae8e1",
    "given-ink": "#55594f",
    "minus-3": "#8a3a00",
    "minus-2": "#cf7a36",
    "minus-1": "#f0cda9",
    "even": "#efeeea",
    "plus-1": "#b9d0f5",
    "plus-2": "#5a8ae0",
    "plus-3": "#123a9e",
}

DARK: dict[str, str] = {
    "bg": "#131417",
    "panel": "#1b1d21",
    "line": "#30333a",
    "ink": "#eceae4",
    "soft": "#a4a8b0",
    "accent": "#8fb0ff",
    "accent-ink": "#10131a",
    "target-bg": "#26292f",
    "target-ink": "#eceae4",
    "accepted-bg": "#12402f",
    "accepted-ink": "#a4ecce",
    "bonus-bg": "#1b3170",
    "bonus-ink": "#c9d8ff",
    "rejected-bg": "#4d1d14",
    "rejected-ink": "#ffc2b3",
    "untested-bg": "#2a2c31",
    "untested-ink": "#a4a8b0",
    "forced-bg": "#3a2266",
    "forced-ink": "#e0cfff",
    "copied-bg": "#4a3506",
    "copied-ink": "#ffdf9a",
    "undecided-bg": "#2c2f35",
    "undecided-ink": "#a9adb5",
    "given-bg": "#2b2b27",
    "given-ink": "#b9b9ae",
    "minus-3": "#ffb27c",
    "minus-2": "#a0551c",
    "minus-1": "#573619",
    "even": "#2a2d33",
    "plus-1": "#22385f",
    "plus-2": "#3a62b8",
    "plus-3": "#a8c6ff",
}


@dataclass(frozen=True, slots=True)
class Role:
    """What a colour means, with the light colours and the second channel.

    `border` is the CSS style of the line under a token ("none" when there is none); `struck` says that a line goes
    through it.
    """

    name: str
    label: str
    mark: str
    border: str = "none"
    struck: bool = False

    @property
    def bg(self) -> str:
        """The tint behind the token."""
        return LIGHT[f"{self.name}-bg"]

    @property
    def ink(self) -> str:
        """The text on the tint; also a strong colour for bars and lines."""
        return LIGHT[f"{self.name}-ink"]

    @property
    def edge(self) -> str:
        """The outline of a box with this tint."""
        return LIGHT[f"{self.name}-edge"]


ROLES: dict[str, Role] = {
    role.name: role
    for role in (
        Role("target", "model", ""),
        Role("accepted", "drafted, accepted", "✓", border="solid"),
        Role("bonus", "bonus or correction", "+", border="dotted"),
        Role("rejected", "rejected", "✕", struck=True),
        Role("untested", "untested", "·", border="dashed"),
        Role("forced", "forced by grammar", "◆", border="double"),
        Role("copied", "copied", "=", border="solid"),
        Role("given", "given", "»"),
        Role("undecided", "undecided", "?", border="dashed"),
    )
}

ROLE_OF_ORIGIN: dict[Origin, str] = {
    "sampled": "target",
    "drafted": "accepted",
    "bonus": "bonus",
    "correction": "bonus",
    "forced": "forced",
    "copied": "copied",
    "given": "given",
}


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def mix(first: str, second: str, share: float) -> str:
    """`share` of the second colour, the rest of the first, as a hex string."""
    parts = (round(a + (b - a) * share) for a, b in zip(_channels(first), _channels(second), strict=True))
    return "#" + "".join(f"{part:02x}" for part in parts)


def contrast(first: str, second: str) -> float:
    """WCAG 2 contrast ratio of two colours, from 1 (the same) to 21 (black on white)."""

    def luminance(colour: str) -> float:
        parts = [part / 255 for part in _channels(colour)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


# Probability classes: lower bound, and how much accent is in the cell. The scale jumps over the middle tones, on which
# neither dark nor light text would have a contrast of 4.5.
_CLASSES = ((0.0, 0.0), (0.02, 0.05), (0.1, 0.11), (0.25, 0.19), (0.5, 0.28), (0.75, 0.84), (0.9, 1.0))

for _theme in (LIGHT, DARK):
    for _name in ROLES:
        _theme[f"{_name}-edge"] = mix(_theme[f"{_name}-bg"], _theme[f"{_name}-ink"], 0.45)
    for _level, (_, _share) in enumerate(_CLASSES):
        _theme[f"sure-{_level}"] = mix(_theme["panel"], _theme["accent"], _share)

SURE_BOUNDS: tuple[float, ...] = tuple(bound for bound, _ in _CLASSES)
"""Lower bounds of the probability classes; darker (in the dark theme: brighter) means surer."""

SURE: tuple[str, ...] = tuple(LIGHT[f"sure-{level}"] for level in range(len(_CLASSES)))

EFFECT: tuple[str, ...] = tuple(
    LIGHT[name] for name in ("minus-3", "minus-2", "minus-1", "even", "plus-1", "plus-2", "plus-3")
)
"""From against to for, with nothing in the middle: the diverging scale. Blue and orange, so that red-green blindness
does not hide the sign; the middle tone differs from the panel, which means that there is no number."""

EFFECT_SCALE: list[list[float | str]] = [[place / (len(EFFECT) - 1), colour] for place, colour in enumerate(EFFECT)]
"""`EFFECT` as Plotly's colour scale, for values from -1 to 1."""

EFFECT_BOUNDS: tuple[float, ...] = (0.05, 0.25, 0.6)
"""From which size on an effect, as a share of the greatest, has the first, second and third tone."""

dark_of: dict[str, str] = {LIGHT[name]: DARK[name] for name in LIGHT}
"""Every colour that a drawing may hold, with its counterpart in the dark theme."""


def sure_level(p: float) -> int:
    """The class of a probability: an index into `SURE`."""
    return sum(p >= bound for bound in SURE_BOUNDS[1:])


def sure_ink(p: float) -> str:
    """The text colour that is readable in the cell of a probability."""
    return LIGHT["accent-ink"] if p >= 0.75 else LIGHT["ink"]


def effect_level(share: float) -> int:
    """The tone of an effect from -1 to 1: an index into `EFFECT`."""
    size = sum(abs(share) >= bound for bound in EFFECT_BOUNDS)
    return len(EFFECT_BOUNDS) + (size if share > 0 else -size)


def effect_ink(level: int) -> str:
    """The text colour that is readable on the tone `EFFECT[level]`."""
    return LIGHT["accent-ink"] if level in (0, len(EFFECT) - 1) else LIGHT["ink"]


def css_variables() -> str:
    """The style text of both themes: `--ROLE-bg`, `--ROLE-ink`, `--ROLE-edge`, and `--bg`, `--panel`, `--line` …"""

    def block(selector: str, theme: dict[str, str]) -> str:
        return selector + "{" + "".join(f"--{name}:{colour};" for name, colour in theme.items()) + "}"

    return block(":root", LIGHT) + "\n" + block(".dark", DARK)


def css_roles(prefix: str = ".tok") -> str:
    """One rule per role, `.tok.accepted{…}`: tint, ink, and the line that is the second channel."""
    rules = []
    for role in ROLES.values():
        plain = role.name == "target"  # the model's own words are running text: no tint
        rule = "" if plain else f"background:var(--{role.name}-bg);color:var(--{role.name}-ink);"
        if role.border != "none":
            width = "3px" if role.border == "double" else "2px"
            rule += f"border-bottom:{width} {role.border} var(--{role.name}-ink);"
        if role.struck:
            rule += "text-decoration:line-through;"
        rules.append(f"{prefix}.{role.name}{{{rule}}}")
    return "\n".join(rules)

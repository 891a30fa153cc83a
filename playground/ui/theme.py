"""The look: system fonts, the palette of `visuals.palette`, and one style sheet."""

from __future__ import annotations

import gradio as gr
from gradio.themes.utils.fonts import Font

from playground.ui.live import ASSETS
from visuals.palette import css_roles, css_variables

SANS = ("Inter", "Segoe UI", "system-ui", "sans-serif")
MONO = ("ui-monospace", "Menlo", "DejaVu Sans Mono", "monospace")


def theme() -> gr.themes.Base:
    """Gradio's own parts in our colours; nothing is fetched from elsewhere."""
    base = gr.themes.Base(
        font=[Font(name) for name in SANS],
        font_mono=[Font(name) for name in MONO],
        spacing_size="sm",
        radius_size="md",
        text_size="sm",
    )
    own = {
        "body_background_fill": "var(--bg)",
        "body_text_color": "var(--ink)",
        "body_text_color_subdued": "var(--soft)",
        "background_fill_primary": "var(--panel)",
        "background_fill_secondary": "var(--bg)",
        "border_color_primary": "var(--line)",
        "border_color_accent": "var(--accent)",
        "color_accent": "var(--accent)",
        "color_accent_soft": "var(--bg)",
        "block_background_fill": "transparent",
        "block_border_width": "0px",
        "block_padding": "0px",
        "block_label_text_color": "var(--soft)",
        "block_title_text_color": "var(--soft)",
        "block_title_text_size": "12px",
        "block_title_text_weight": "400",
        "input_background_fill": "var(--bg)",
        "input_border_color": "var(--line)",
        "input_border_color_focus": "var(--accent)",
        "input_placeholder_color": "var(--soft)",
        "button_primary_background_fill": "var(--accent)",
        "button_primary_background_fill_hover": "var(--accent)",
        "button_primary_text_color": "var(--accent-ink)",
        "button_primary_border_color": "var(--accent)",
        "button_secondary_background_fill": "transparent",
        "button_secondary_background_fill_hover": "var(--bg)",
        "button_secondary_text_color": "var(--ink)",
        "button_secondary_border_color": "var(--line)",
        "button_transition": "none",
        "loader_color": "var(--accent)",
        "slider_color": "var(--accent)",
        "link_text_color": "var(--accent)",
    }
    known = vars(base)
    both = own | {f"{name}_dark": value for name, value in own.items() if f"{name}_dark" in known}
    return base.set(**{name: value for name, value in both.items() if name in known})


def stylesheet() -> str:
    """Palette first, then the sheets that use it: `shell.css`, and one per page."""
    swatches = css_roles(".swatch")
    sheets = sorted((ASSETS / "styles").glob("*.css"), key=lambda file: (file.name != "shell.css", file.name))
    return "\n".join([css_variables(), css_roles(".tok"), swatches, *(sheet.read_text() for sheet in sheets)])

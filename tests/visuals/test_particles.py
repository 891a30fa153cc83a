"""The genealogy: one worked population with its numbers, odd streams, a real run."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from picture_streams import HOSTILE, STREAMS, token

from engines.events import Event, Particle, Particles, Score
from engines.models.twin import twin
from engines.runner import run
from visuals import particles
from visuals.palette import LIGHT, ROLES, dark_of

THE = token(" the")


def stream() -> list[Event]:
    """Three texts; the third dies, the first outweighs the second by 3 to 1; all heirs are the first's and second's."""
    return [
        Particles(
            step=0,
            particles=(
                Particle(0, 0, " sun", math.log(0.6), "alive"),
                Particle(1, 1, " sky", math.log(0.2), "alive"),
                Particle(2, 2, " the", None, "dead"),
            ),
            effective=1.6,
            resampled=True,
        ),
        Particles(
            step=1,
            particles=(
                Particle(0, 0, " is", math.log(0.1), "alive"),
                Particle(1, 0, "", math.log(0.1), "finished"),
                Particle(2, 1, " was", math.log(0.2), "alive"),
            ),
            effective=2.67,
            resampled=False,
        ),
    ]


def scores() -> list[Event]:
    return [
        Score(name="log evidence", value=-2.0),
        Score(name="posterior", value=0.75, text=" sun", sequence=0, chosen=True),
        Score(name="posterior", value=0.25, text=" sky", sequence=1),
    ]


def drawn(events: list[Event]) -> dict[str, Any]:
    drawing = particles.draw(events)
    assert drawing is not None
    return drawing


def nodes(drawing: dict[str, Any]) -> dict[str, Any]:
    return next(trace for trace in drawing["data"] if trace["mode"] == "markers")


def curves(drawing: dict[str, Any]) -> list[tuple[float, float, float, float]]:
    """Where each curve begins (row) and ends (column, row), and how thick it is; rows and columns as numbers."""
    out = []
    pitch = particles.ROW
    for trace in drawing["data"]:
        if trace["mode"] != "lines":
            continue
        xs, ys = trace["x"], trace["y"]
        for start in range(0, len(xs), 8):
            out.append(
                (ys[start] / pitch, xs[start + 6] / particles.PITCH, ys[start + 6] / pitch, trace["line"]["width"])
            )
    return sorted(out, key=lambda curve: (curve[1], curve[2]))


def test_lines_lead_from_parents_to_heirs() -> None:
    assert [curve[:3] for curve in curves(drawn(stream()))] == [
        (0, 0, 0),
        (1, 0, 1),
        (2, 0, 2),
        (0, 1, 0),
        (0, 1, 1),
        (1, 1, 2),
    ]


def test_a_line_is_as_thick_as_its_share_of_the_weight() -> None:
    assert particles.generations(stream())[0].shares == pytest.approx((0.75, 0.25, 0))
    widths = [curve[3] for curve in curves(drawn(stream()))]
    # √.75 and √.25 of five steps; nothing is left of the dead; then √.25, √.25, √.5.
    assert widths == [8.0, 3.5, 1.0, 3.5, 3.5, 5.5]


def test_shares_do_not_underflow() -> None:
    heavy = [Particle(index, index, "", -5000.0 - index, "alive") for index in range(2)]
    assert particles.shares(heavy) == pytest.approx((1 / (1 + math.exp(-1)), math.exp(-1) / (1 + math.exp(-1))))


def test_deaths_are_crosses_finished_texts_squares_and_the_heirless_hollow() -> None:
    marks = nodes(drawn(stream()))["marker"]
    assert marks["symbol"] == ["circle", "circle", "x", "circle", "square", "circle"]
    assert marks["color"][2] == ROLES["rejected"].ink
    assert marks["color"][4] == ROLES["accepted"].ink
    lonely = stream()
    assert isinstance(lonely[1], Particles)
    heirs = tuple(Particle(index, 0, " is", -1.0, "alive") for index in range(3))
    lonely[1] = Particles(step=1, particles=heirs, effective=3.0, resampled=False)
    assert nodes(drawn(lonely))["marker"]["color"][1] == LIGHT["panel"]
    assert nodes(drawn(lonely))["marker"]["color"][0] == ROLES["target"].ink


def test_words_and_effective_numbers_are_written_and_resampling_is_marked() -> None:
    drawing = drawn(stream())
    words, sizes = [trace["text"] for trace in drawing["data"] if trace["mode"] == "text"]
    assert words == ["␣sun", "␣sky", "✕", "␣is", "end", "␣was"]
    assert sizes == ["1.6 ↻", "2.7"]
    assert [shape["x0"] for shape in drawing["layout"]["shapes"]] == [particles.PITCH / 2]


def test_the_narration_says_it_in_words() -> None:
    assert particles.narrate([*stream(), *scores()]) == (
        "After 2 steps, of 3 particles: 2 alive, 1 finished, 0 dead. Their weights are worth 2.7 equal ones. The "
        "population was resampled 1 time; 1 text had no heirs. The posterior holds 2 texts; “␣sun” has 0.750."
    )


def test_the_table_has_a_row_per_particle_and_step() -> None:
    rows = particles.table(stream())
    assert [row["parent"] for row in rows] == [0, 1, 2, 0, 0, 1]
    assert [row["heirs"] for row in rows] == [2, 1, 0, None, None, None]
    assert rows[2]["share"] == 0


def test_a_dead_population_is_drawn_too() -> None:
    dead = tuple(Particle(index, index, "", None, "dead") for index in range(4))
    drawing = drawn([Particles(step=0, particles=dead, effective=0.0, resampled=False)])
    assert nodes(drawing)["marker"]["symbol"] == ["x"] * 4


@pytest.mark.parametrize("spelled", HOSTILE)
def test_hostile_text_is_harmless(spelled: Any) -> None:
    one = Particles(step=0, particles=(Particle(0, 0, spelled.text, -1.0, "alive"),), effective=1.0, resampled=False)
    text = json.dumps(drawn([one, Score(name="posterior", value=1.0, text=spelled.text)]), ensure_ascii=False)
    assert "<script" not in text
    assert "<a" not in text
    assert "\u202e" not in text
    assert "\n" not in text
    assert particles.narrate([one, Score(name="posterior", value=1.0, text=spelled.text)]).endswith(".")


def test_odd_numbers_and_parents_do_no_harm() -> None:
    odd = (
        Particle(0, 99, "a", float("inf"), "alive"),
        Particle(0, -7, "b", float("nan"), "finished"),
        Particle(5, 0, "c", -1e308, "alive"),
    )
    events: list[Event] = [
        *stream(),
        Particles(step=9, particles=odd, effective=float("nan"), resampled=True),
        Particles(step=0, particles=(), effective=0.0, resampled=False),
    ]
    json.dumps(drawn(events), allow_nan=False)
    assert particles.narrate(events).endswith(".")
    assert particles.table(events)


def test_many_steps_and_many_particles_keep_their_size_and_their_speed() -> None:
    for count, steps in ((5, 500), (64, 300)):
        events: list[Event] = [
            Particles(
                step=step,
                particles=tuple(
                    Particle(place, (place * 7 + step) % count, THE.text, -float(place), "alive")
                    for place in range(count)
                ),
                effective=2.0,
                resampled=step % 3 == 0,
            )
            for step in range(steps)
        ]
        seconds = []
        for _ in range(3):
            begin = time.perf_counter()
            drawing = drawn(events)
            seconds.append(time.perf_counter() - begin)
        assert min(seconds) < 0.15
        assert drawing["min_width"] <= 2000
        assert drawing["layout"]["height"] <= 960
        assert len(nodes(drawing)["x"]) <= 1300


def test_streams_of_other_methods_leave_it_empty() -> None:
    for make in STREAMS.values():
        events = make()
        if not any(isinstance(event, Particles) for event in events):
            assert particles.draw(events) is None


def test_a_real_run_is_drawn_at_every_moment() -> None:
    events = list(run(twin(), "awrs-smc", "The sea", params={"limit": "may be cut"}, max_new_tokens=8, seed=1))
    made = [event for event in events if isinstance(event, Particles)]
    assert len(made) == 8 or made[-1].particles[0].state != "alive"
    for stop in range(0, len(events) + 1, 3):
        drawing = particles.draw(events[:stop])
        if drawing is not None:
            assert all(not value.startswith("#") or value in dark_of for value in _strings(drawing))
    assert "posterior" in particles.narrate(events)


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in inner for text in _strings(part)]

from __future__ import annotations

import base64
import time
import zlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.errors import DecodingError
from playground.links import LONGEST, MOST_BYTES, BadLink, BadSetup, address, decoded, encoded, plausible
from playground.setup import Setup

QUESTION = "What is photosynthesis?"
FULL = Setup(
    method="sampling",
    prompt="Zeile eins\nline two 🦊",
    params={"temperature": 0.7, "top_k": 5},
    seed=2**63 - 1,
    max_new_tokens=7,
    raw=True,
    stop=("\n\n", "END"),
    time_limit=1.5,
    prefix=(3, 99, 1),
    model="organisation/name",
    precision="int8",
)


def compact(value: object, version: int = 1) -> str:
    """A compact text that says `value`, whatever it is."""
    body = zlib.compress(value if isinstance(value, bytes) else msgspec.msgpack.encode(value))
    return base64.urlsafe_b64encode(bytes([version]) + body).decode().rstrip("=")


def test_a_link_says_the_whole_set_up() -> None:
    assert decoded(encoded(FULL)) == FULL


def test_what_has_its_default_costs_nothing() -> None:
    plain = Setup(method="sampling", prompt=QUESTION)
    spelled_out = Setup(method="sampling", prompt=QUESTION, params={"temperature": 1.0, "top_k": 0})
    other = Setup(method="sampling", prompt=QUESTION, params={"temperature": 0.9})
    assert encoded(spelled_out) == encoded(plain)
    assert decoded(encoded(other)).params == {"temperature": 0.9}
    assert len(encoded(plain)) < 70


def test_settings_of_a_method_that_is_not_here_are_all_kept() -> None:
    setup = Setup(method="somebody-elses", prompt="x", params={"width": 1, "on": True, "none": None, "name": "a"})
    assert decoded(encoded(setup)) == setup


def test_a_prompt_too_long_for_an_address_is_refused_with_another_way() -> None:
    words = " ".join(str(hash((k, "x")) % 10**12) for k in range(2_000))
    with pytest.raises(BadLink, match=r"run card"):
        encoded(Setup(method="greedy", prompt=words))


def test_a_link_is_an_address_with_a_query() -> None:
    setup = Setup(method="greedy", prompt=QUESTION)
    assert (
        address("https://example.org/app/", setup, name="class") == f"https://example.org/app/?class={encoded(setup)}"
    )
    for base in ("javascript:alert(1)", "file:///etc/passwd", "http://a b/", "http://x/?y", "x"):
        with pytest.raises(BadLink, match="not the address of a page"):
            address(base, setup)


@pytest.mark.parametrize("cut", [1, 2, 5, 20])
def test_a_link_that_lost_its_end_is_damaged(cut: int) -> None:
    with pytest.raises(BadLink, match="damaged"):
        decoded(encoded(FULL)[:-cut])


def test_a_changed_letter_is_noticed() -> None:
    whole = encoded(FULL)
    for place in range(2, len(whole) - 1):
        changed = whole[:place] + ("A" if whole[place] != "A" else "B") + whole[place + 1 :]
        with pytest.raises(BadLink):
            decoded(changed)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"m": "greedy"}, "missing required field `p`"),
        ({"m": "greedy", "p": "x", "s": -1}, ">= 0"),
        ({"m": "greedy", "p": "x", "s": 2**63}, "<= 9223372036854775807"),
        ({"m": "greedy", "p": "x", "s": True}, "Expected `int`, got `bool`"),
        ({"m": "greedy", "p": "x", "n": 0}, ">= 1"),
        ({"m": "greedy", "p": "x", "z": 1}, "unknown field"),
        ({"m": "greedy", "p": "x", "t": -3.0}, "> 0.0"),
        ({"m": "greedy", "p": "x", "o": {"a": [1]}}, "got `array`"),
        ({"m": "greedy", "p": "x", "o": {"a": float("nan")}}, "not finite"),
        ({"m": "greedy", "p": "x", "t": float("inf")}, "not finite"),
        ({"m": "../../etc/passwd", "p": "x"}, "cannot be a name"),
        ({"m": "greedy", "p": "x", "w": "/home/somebody/model"}, "cannot be a name"),
        ({"m": "<script>", "p": "x"}, "cannot be a name"),
        ({"m": "x" * 201, "p": "x"}, "length <= 200"),
        ({"m": "greedy", "p": "x", "e": ["a"] * 33}, "length <= 32"),
        ({"m": "greedy", "p": "x", "g": [-1]}, ">= 0"),
        ([1, 2], "got `array`"),
        (b"\x91" * 60_000, "got `array`"),
        (b"\x82\xa1m\xa1\xff\xa1p\xa1a", "damaged"),
        (b"", "damaged"),
    ],
)
def test_what_is_no_set_up_is_refused_in_a_sentence(value: object, said: str) -> None:
    with pytest.raises(BadLink) as refused:
        decoded(compact(value))
    assert said in str(refused.value)
    assert len(str(refused.value)) < 200


def test_another_version_is_named() -> None:
    with pytest.raises(BadLink, match="version 2, and this program reads version 1"):
        decoded(compact({"m": "greedy", "p": "x"}, version=2))


def test_a_bomb_is_not_unpacked() -> None:
    bomb = zlib.compress(b"\0" * (5 * 2**20), 9)
    text = base64.urlsafe_b64encode(b"\1" + bomb).decode().rstrip("=")
    assert len(text) < LONGEST
    with pytest.raises(BadLink, match=f"more than {MOST_BYTES // 1024} KB"):
        decoded(text)


def test_an_endless_link_is_not_read() -> None:
    began = time.perf_counter()
    with pytest.raises(BadLink, match="1,000,000 characters"):
        decoded("A" * 1_000_000)
    assert time.perf_counter() - began < 0.1


def test_a_set_up_of_impossible_numbers_is_refused() -> None:
    with pytest.raises(BadSetup, match="far too large"):
        plausible(Setup(method="greedy", prompt="x", params={"top_k": 10**100}))


def survives(text: str) -> None:
    began, said = time.perf_counter(), ""
    try:
        assert isinstance(decoded(text), Setup)
    except DecodingError as refused:
        said = str(refused)
    assert said == "" or 10 < len(said) < 400
    assert time.perf_counter() - began < 0.5


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_a_set_up_or_an_error(text: str) -> None:
    survives(text)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_set_up_or_an_error(data: bytes) -> None:
    survives(base64.urlsafe_b64encode(data).decode().rstrip("="))
    survives(base64.urlsafe_b64encode(b"\1" + data).decode().rstrip("="))
    survives(compact(data))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=20)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from("mposnretgwqz"), VALUES, max_size=6))
def test_any_message_is_a_set_up_or_an_error(message: dict[str, object]) -> None:
    survives(compact({"m": "greedy", "p": "x"} | message))
    survives(compact(message))


SETUPS = st.builds(
    Setup,
    method=st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True),
    prompt=st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    params=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
        st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False),
        max_size=5,
    ),
    seed=st.integers(0, 2**63 - 1),
    max_new_tokens=st.integers(1, 4096),
    raw=st.booleans(),
    prefix=st.lists(st.integers(0, 2**20), max_size=20).map(tuple),
)


@settings(max_examples=300, deadline=None)
@given(SETUPS)
def test_there_and_back(setup: Setup) -> None:
    back = decoded(encoded(setup))
    assert msgspec.structs.replace(back, params={}) == msgspec.structs.replace(setup, params={})
    assert back.params.items() <= setup.params.items()

from __future__ import annotations

import msgspec
import pytest

from engines.events import Event, Finished, Started
from engines.models.causal import CausalModel
from playground.setup import Setup

ASKED = Setup(
    method="sampling",
    prompt="Hello",
    params={"temperature": 0.7},
    seed=11,
    max_new_tokens=9,
    raw=True,
    stop=("zz",),
    time_limit=50.0,
    prefix=(65, 66),
)


def ids(events: list[Event]) -> tuple[int, ...]:
    last = events[-1]
    assert isinstance(last, Finished)
    return last.token_ids


def test_the_set_up_of_a_run_gives_the_same_run_again(tiny_llama: CausalModel) -> None:
    first = list(ASKED.begin(tiny_llama))
    again = Setup.of(first)
    assert (again.stop, again.time_limit, again.prefix, again.model) == (("zz",), 50.0, (65, 66), "tiny-llama")
    assert again.params["temperature"] == 0.7
    assert ids(list(again.begin(tiny_llama))) == ids(first)
    other = msgspec.structs.replace(again, seed=12)
    assert ids(list(other.begin(tiny_llama))) != ids(first)


def test_a_set_up_survives_json() -> None:
    line = msgspec.json.encode(ASKED)
    assert msgspec.json.decode(line, type=Setup) == ASKED
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"method": "greedy", "prompt": "x", "owner": "me"}', type=Setup)


def test_without_a_header_there_is_no_set_up(tiny_llama: CausalModel) -> None:
    with pytest.raises(ValueError, match="Started"):
        Setup.of(list(ASKED.begin(tiny_llama))[1:])
    assert isinstance(next(iter(ASKED.begin(tiny_llama))), Started)

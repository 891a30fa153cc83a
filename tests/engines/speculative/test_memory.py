"""What is remembered from run to run, and for whom."""

from __future__ import annotations

from engines.models.causal import CausalModel
from engines.runner import Run
from engines.speculative import memory
from engines.speculative.memory import remembered


def test_a_person_finds_what_they_left_and_nobody_else_does(tiny_llama: CausalModel, tiny_gpt2: CausalModel) -> None:
    memory.forget()
    mine = Run(tiny_llama, [1], person="me")
    remembered(mine, "successors")[5] = [6]
    assert remembered(Run(tiny_llama, [2], person="me"), "successors") == {5: [6]}
    assert remembered(Run(tiny_llama, [2], person="you"), "successors") == {}
    assert remembered(Run(tiny_llama, [2]), "successors") == {}
    assert remembered(mine, "trigrams") == {}
    assert remembered(Run(tiny_gpt2, [2], person="me"), "successors") == {}


def test_the_memory_is_bounded_and_forgets_what_was_unused_for_longest(tiny_llama: CausalModel) -> None:
    memory.forget()
    for person in range(memory.MOST_TABLES):
        remembered(Run(tiny_llama, [1], person=str(person)), "t")["who"] = person
    remembered(Run(tiny_llama, [1], person="0"), "t")
    remembered(Run(tiny_llama, [1], person="new"), "t")
    assert remembered(Run(tiny_llama, [1], person="0"), "t") == {"who": 0}
    assert remembered(Run(tiny_llama, [1], person="1"), "t") == {}
    memory.forget()
    assert remembered(Run(tiny_llama, [1], person="0"), "t") == {}

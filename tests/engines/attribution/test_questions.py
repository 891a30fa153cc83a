"""What may be asked of a model's inside, and what is said, with a way out, where it may not."""

from __future__ import annotations

import msgspec
import pytest
import torch

from engines.attribution.estimate import compare
from engines.attribution.questions import (
    LONGEST,
    Asking,
    BadQuestion,
    Question,
    Task,
    check_lengths,
    check_memory,
    check_metric,
    named,
    of_task,
    question,
    second_choices,
    shipped,
    template_places,
)
from engines.errors import BadParameter
from engines.events import Contrast
from engines.models.causal import CausalModel
from engines.models.white_box import WhiteBox
from engines.runner import Run, run

PROMPT = "The capital of France is the city of"


def asking(
    model: CausalModel, prompt: str = PROMPT, *, raw: bool = True, output: str = "", **settings: str
) -> Question:
    job = Run(model, model.encode(prompt, raw=raw), raw=raw)
    job.output = model.encode(output, raw=True) if output else []
    return question(job, msgspec.convert({"task": "this prompt", **settings}, Asking))


# Shipped tasks


@pytest.mark.parametrize("task", ["ioi", "induction", "agreement", "capitals", "greater-than"])
def test_all_pairs_of_a_task_fit_the_shipped_model_and_it_can_do_them(smollm: CausalModel, task: str) -> None:
    asked = of_task(smollm, task, 24)
    pairs = len(shipped()[task].pairs)
    assert asked.clean.shape == asked.corrupted.shape == (pairs, asked.length)
    assert asked.length <= 32
    assert (asked.clean != asked.corrupted).any(1).all()
    assert (asked.answers != asked.foils).all()
    assert asked.clean[0, 0] == smollm.tokenizer.bos_token_id
    runs = compare(WhiteBox(smollm.network), of_task(smollm, task, 8), gradients=False)
    assert (runs.clean > runs.corrupted).all()
    assert runs.clean.mean() > 0
    if task != "greater-than":
        assert (runs.clean > 0).float().mean() > 0.8


def test_every_task_that_can_be_chosen_is_shipped() -> None:
    assert {*shipped(), "this prompt"} == set(Task.__args__)  # type: ignore[attr-defined]
    for task in shipped().values():
        assert task.title
        assert task.about.endswith((".", "?"))


@pytest.mark.parametrize("task", ["ioi", "induction", "agreement"])
def test_pairs_come_in_both_orders(task: str) -> None:
    pairs = shipped()[task].pairs
    for one, other in zip(pairs[::2], pairs[1::2], strict=True):
        assert (one.clean, one.corrupted, one.answer, one.foil) == (
            other.corrupted,
            other.clean,
            other.foil,
            other.answer,
        )


def test_as_many_pairs_as_asked_for(smollm: CausalModel) -> None:
    job = Run(smollm, [1])
    assert question(job, Asking(task="ioi", pairs=3)).clean.shape[0] == 3
    alone = question(job, Asking(task="ioi", pairs=3), alone=True)
    assert torch.equal(alone.clean, alone.corrupted)
    assert alone.first == alone.length


def test_a_tokenizer_of_bytes_is_refused_with_a_way_out(tiny_llama: CausalModel) -> None:
    with pytest.raises(BadQuestion, match=r"No prompt of the task ioi fits .* several tokens\. Choose another task"):
        of_task(tiny_llama, "ioi", 8)


def test_the_first_difference_is_that_of_any_pair() -> None:
    clean = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4]])
    corrupted = torch.tensor([[1, 2, 3, 9], [1, 2, 9, 4]])
    asked = Question("", clean, corrupted, torch.tensor([5, 0]), torch.tensor([1, 2]))
    assert asked.first == 2
    logits = torch.arange(12.0).view(2, 6)
    assert asked.difference(logits).tolist() == [4, -2]


# A prompt of one's own


def test_an_answer_and_a_foil_that_are_not_named_are_the_two_likeliest(smollm: CausalModel) -> None:
    asked = asking(smollm, corrupted="The capital of Spain is the city of")
    with torch.no_grad():
        best = smollm.network(asked.clean).logits[0, -1].topk(2).indices.tolist()
    assert [int(asked.answers[0]), int(asked.foils[0])] == best
    other = asking(smollm, corrupted="The capital of Spain is the city of", answer=smollm.decode(best[1:]))
    assert [int(other.answers[0]), int(other.foils[0])] == best[::-1]


def test_a_token_of_the_output_may_be_asked_about(smollm: CausalModel) -> None:
    asked = asking(smollm, "The capital of France is", output=" the city of", corrupted="The capital of Spain is")
    assert smollm.decode(asked.clean[0].tolist()).endswith("France is the city of")
    assert smollm.decode(asked.corrupted[0].tolist()).endswith("Spain is the city of")


def test_prompts_of_different_lengths_are_refused_with_where_they_part(smollm: CausalModel) -> None:
    with pytest.raises(BadQuestion, match="pad the shorter one") as caught:
        asking(smollm, corrupted="The capital of Liechtenstein is the city of")
    at = smollm.encode(PROMPT, raw=True).index(smollm.encode(" France", raw=True)[-1])
    assert f"part at token {at}, where the corrupted one" in str(caught.value)
    assert "' L" in str(caught.value), "what stands there is quoted"
    with pytest.raises(BadQuestion, match="part at token 2, where the clean one, which is longer"):
        check_lengths(smollm, [1, 2, 3], [1, 2])


def test_the_same_prompt_twice_is_refused(smollm: CausalModel) -> None:
    with pytest.raises(BadQuestion, match=r"is the clean one. Change the word"):
        asking(smollm, corrupted=PROMPT)


@pytest.mark.parametrize("what", ["answer", "foil"])
def test_answers_of_several_tokens_are_refused_with_their_tokens(smollm: CausalModel, what: str) -> None:
    with pytest.raises(BadQuestion, match=r"Only a single token can be explained. Name the first of them") as caught:
        asking(smollm, raw=True, answer=" Liechtenstein") if what == "answer" else asking(smollm, foil=" Liechtenstein")
    assert f"The {what} ' Liechtenstein' is " in str(caught.value)
    assert "' L" in str(caught.value)


def test_a_missing_space_is_noticed(smollm: CausalModel) -> None:
    assert named(smollm, " Madrid", "answer") is not None
    with pytest.raises(BadQuestion, match="' Madrid' is one"):
        named(smollm, "Madrid", "answer")
    assert named(smollm, "", "answer") is None


def test_what_people_type_is_quoted_and_bounded(smollm: CausalModel) -> None:
    with pytest.raises(BadQuestion) as caught:
        named(smollm, "\x1b[31m<script>" * 6, "answer")
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_foil_that_is_the_answer_is_refused(smollm: CausalModel) -> None:
    with pytest.raises(BadQuestion, match=r"same token, ' Paris'. Name two different ones"):
        asking(smollm, answer=" Paris", foil=" Paris")


@pytest.mark.parametrize("gap", [0.0, 0.49, -0.3, float("nan"), float("inf") - float("inf")])
def test_a_metric_that_hardly_changes_is_refused(smollm: CausalModel, gap: float) -> None:
    asked = of_task(smollm, "ioi", 1)
    with pytest.raises(BadQuestion, match=r"there is nothing to explain. Change the word"):
        check_metric(asked, torch.tensor([1.0 + gap]), torch.tensor([1.0]))
    check_metric(asked, torch.tensor([1.6]), torch.tensor([1.0]))
    check_metric(asked, torch.tensor([0.4]), torch.tensor([1.0]))


def test_a_change_that_does_not_matter_is_refused_by_the_method(smollm: CausalModel) -> None:
    settings = {"task": "this prompt", "corrupted": PROMPT.replace("The", "That"), "answer": " Paris", "foil": " Rome"}
    with pytest.raises(BadQuestion, match="changes the logit difference of answer and foil by only"):
        list(run(smollm, "relp", PROMPT, raw=True, params=settings))


def test_prompts_that_are_too_long_are_refused(smollm: CausalModel) -> None:
    longest = "a " * (LONGEST // 2 - 1)
    assert asking(smollm, longest, answer=" a", foil=" b", corrupted=longest.replace("a", "b", 1)).length <= LONGEST
    with pytest.raises(BadQuestion, match=f"at most {LONGEST}. Ask about a shorter prompt, or an earlier token"):
        asking(smollm, "word " * (LONGEST + 1), answer=" a", foil=" b")


def test_questions_that_no_memory_holds_are_refused(smollm: CausalModel) -> None:
    many = torch.zeros(1, LONGEST, dtype=torch.long).expand(10**6, -1)
    asked = Question("", many, many, torch.zeros(10**6), torch.zeros(10**6))
    with pytest.raises(BadQuestion, match=r"needs about [\d.]+ GB .* are free\. Ask about fewer pairs"):
        check_memory(smollm, asked)
    check_memory(smollm, of_task(smollm, "ioi", 8))


def test_settings_out_of_range_are_refused(smollm: CausalModel) -> None:
    for settings in ({"pairs": 0}, {"pairs": 25}, {"task": "chess"}, {"answer": "x" * 81}):
        with pytest.raises(BadParameter):
            run(smollm, "relp", PROMPT, params=settings)


def test_the_event_shows_prompts_answers_and_both_sides(smollm: CausalModel) -> None:
    asked = asking(smollm, answer=" Paris", foil=" Rome", corrupted="The capital of Italy is the city of")
    event = asked.event(smollm, torch.tensor([2.0]), torch.tensor([-1.0]))
    assert isinstance(event, Contrast)
    (pair,) = event.pairs
    assert "".join(token.text for token in pair.clean).endswith(PROMPT)
    assert (pair.answer.text, pair.foil.text) == (" Paris", " Rome")
    assert (event.clean, event.corrupted) == (2.0, -1.0)
    assert pair.clean[event.first].text == " France"


# The model's own second choices


@pytest.mark.parametrize("prompt", ["What is the capital of France?", "? no", "Go", "Say it."])
def test_second_choices_change_the_users_words_alone(smollm: CausalModel, prompt: str) -> None:
    job = Run(smollm, smollm.encode(prompt))
    replaced = second_choices(job)
    assert len(replaced) == len(job.prompt)
    changed = {index for index, pair in enumerate(zip(replaced, job.prompt, strict=True)) if pair[0] != pair[1]}
    words = set(smollm.encode(prompt, raw=True))
    spelled = smollm.decode(job.prompt)
    start = len(smollm.encode(spelled[: spelled.rindex(prompt)], raw=True))
    theirs = set(range(start, start + len(smollm.encode(prompt, raw=True))))
    assert {job.prompt[index] for index in theirs} == words, "this test finds the user's words"
    assert changed == theirs
    assert not {replaced[index] for index in changed} & (smollm.vocabulary.special | smollm.eos_ids)


def test_a_second_choice_is_the_likeliest_other_token(smollm: CausalModel) -> None:
    job = Run(smollm, smollm.encode(PROMPT, raw=True), raw=True)
    replaced = second_choices(job)
    with torch.no_grad():
        logits = smollm.network(torch.tensor([job.prompt])).logits[0]
    special = list(smollm.vocabulary.special | smollm.eos_ids)
    for index in range(1, len(replaced)):
        others = logits[index - 1].clone()
        others[[*special, job.prompt[index]]] = -torch.inf
        assert replaced[index] == int(others.argmax())


def test_a_second_choice_never_ends_the_text(smollm: CausalModel) -> None:
    job = Run(smollm, smollm.encode("What is the capital of France?"))
    job.output = smollm.encode("The capital of France is Paris. And", raw=True)
    with torch.no_grad():
        before = smollm.network(torch.tensor([job.sequence])).logits[0, -2]
    assert int(before.argmax()) in smollm.eos_ids, "else this test could not tell"
    assert second_choices(job)[-1] not in smollm.vocabulary.special | smollm.eos_ids


def test_what_the_model_wrote_may_be_replaced_and_what_ends_texts_stays(smollm: CausalModel) -> None:
    job = Run(smollm, smollm.encode("Hi"))
    job.output = [*smollm.encode(" there", raw=True), *smollm.eos_ids]
    places = template_places(job)
    assert len(job.prompt) not in places
    assert len(job.sequence) - 1 in places


def test_bytes_have_second_choices_too(tiny_llama: CausalModel) -> None:
    job = Run(tiny_llama, tiny_llama.encode("abc", raw=True), raw=True)
    replaced = second_choices(job)
    assert replaced[0] == job.prompt[0]
    assert all(one != other for one, other in zip(replaced[1:], job.prompt[1:], strict=True))
    assert 256 not in replaced

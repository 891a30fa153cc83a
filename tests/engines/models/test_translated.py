"""A draft of another vocabulary: only shared tokens are guessed, every text is read, and the output stays exact."""

from __future__ import annotations

import pytest
import torch

from engines.errors import BadParameter
from engines.events import Token
from engines.models.causal import CausalModel
from engines.models.early_exit import early_exit
from engines.models.translated import Translated
from engines.models.twin import twin
from engines.runner import Run
from engines.sampling import Sampler
from engines.speculative.drafting import Drafted, Reader
from engines.speculative.loop import speculate
from engines.speculative.speculative_sampling import Chain, Params


@pytest.fixture(scope="module")
def letters(tiny_llama: CausalModel) -> Translated:
    """The twin, which knows nine letters and a full stop, drafting for a model that knows all bytes."""
    return Translated(twin(), tiny_llama)


def test_tokens_are_shared_by_their_spelling(letters: Translated, tiny_llama: CausalModel) -> None:
    assert sorted(tiny_llama.decode([id]) for id in letters.heard.tolist()) == sorted("abcdefghi.")
    said = [twin().token(id).text for id in letters.said.tolist()]
    assert said == [tiny_llama.token(id).text for id in letters.heard.tolist()]


def test_it_never_says_what_is_not_shared(letters: Translated, tiny_llama: CausalModel) -> None:
    logits = letters.start().extend(tiny_llama.encode("abc", raw=True))
    assert logits.shape == (3, tiny_llama.vocabulary_size)
    assert set((logits[-1] > float("-inf")).nonzero()[:, 0].tolist()) == set(letters.heard.tolist())
    own = twin().start().extend(twin().encode("abc", raw=True))
    assert torch.equal(logits[:, letters.heard], own[:, letters.said])


def test_what_it_cannot_read_it_skips_and_can_forget(letters: Translated, tiny_llama: CausalModel) -> None:
    state = letters.start()
    state.extend(tiny_llama.encode("ab?!", raw=True), last=True)
    assert state.length == 4
    again = state.extend(tiny_llama.encode("c", raw=True), last=True)[-1]
    assert torch.allclose(again, letters.start().extend(tiny_llama.encode("abc", raw=True))[-1], atol=1e-6)
    state.rollback(3)
    assert state.length == 2
    again = state.extend(tiny_llama.encode("c", raw=True), last=True)[-1]
    assert torch.allclose(again, letters.start().extend(tiny_llama.encode("abc", raw=True))[-1], atol=1e-6)


def test_a_token_may_be_several_of_the_drafts(smollm: CausalModel, tiny_llama: CausalModel) -> None:
    draft = Translated(tiny_llama, smollm)
    (sea,) = smollm.encode(" sea", raw=True)
    assert [tiny_llama.token(id).text for id in draft.spell_out(sea)] == [" ", "s", "e", "a"]
    state = draft.start()
    spelled = state.extend([sea], last=True)[-1]
    assert state.length == 1
    whole = tiny_llama.start().extend(tiny_llama.encode(" sea", raw=True))[-1]
    torch.testing.assert_close(spelled[draft.heard], whole[draft.said], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_text_drafted_in_another_vocabulary_is_the_targets(
    letters: Translated, tiny_llama: CausalModel, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.speculative.speculative_sampling.draft_for", lambda target, settings: letters)
    params = Params(gamma=3, temperature=temperature, fallback=False)
    for prompt in ("abcab?", "hello"):
        run = Run(tiny_llama, tiny_llama.encode(prompt, raw=True), max_new_tokens=20)
        run.clock.start()
        list(run.read_prompt())
        list(speculate(run, Chain(run, params), params))
        assert len(run.output) == 20
        if temperature == 0:
            plain = Run(tiny_llama, tiny_llama.encode(prompt, raw=True), max_new_tokens=20)
            while len(plain.output) < 20:
                plain.output.append(int(plain.next_logits().argmax()))
            assert run.output == plain.output


def test_a_reader_draws_shared_tokens_only(letters: Translated, tiny_llama: CausalModel) -> None:
    run = Run(tiny_llama, tiny_llama.encode("ab", raw=True))
    reader = Reader(run, letters, Sampler(Drafted(temperature=1.0), tiny_llama.token))
    q = reader.distribution(reader.catch_up())
    assert set(q.nonzero()[:, 0].tolist()) <= set(letters.heard.tolist())
    assert float(q.sum()) == pytest.approx(1.0)


def test_a_draft_with_nothing_in_common_is_refused(tiny_llama: CausalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = early_exit(tiny_llama, 1)
    monkeypatch.setattr(stranger, "token", lambda id: Token(id, f"<{id}>"))
    with pytest.raises(BadParameter, match="no tokens in common"):
        Translated(stranger, tiny_llama)

"""What people get wrong, and what vocabularies and models bring along: a sentence in time, and nobody else is harmed.

One test per row of the list of bad inputs. These rows stand elsewhere: malformed grammars, backtracking and exploding
expressions, self and external references in `test_guidance`, with the automata in `test_automata` and conflicts in
`test_cfg`; characters over several tokens in `test_guidance` and `test_syncode`; whitespace policies in
`test_guidance`; endings in the budget in `test_grammar_mask`, `test_syncode` and `test_closing`.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from engines import run
from engines.constrained.predicates import checker_for
from engines.constrained.syncode import Language, SynCode, language_for
from engines.events import Mask, Note, Token, committed
from engines.grammars.automata import LONGEST_TEXT, from_regex
from engines.grammars.cfg import Grammar
from engines.grammars.constraint import BadGrammar, Constraint, DeadEnd, GrammarLimit
from engines.grammars.endless import no_text_ends
from engines.grammars.gate import Gate
from engines.grammars.guidance import Kind, compile_guidance
from engines.grammars.kinds import constraint_for
from engines.grammars.peers import compile_with, installed
from engines.grammars.samples import ARITHMETIC, PERSON
from engines.grammars.vocabulary import Vocabulary, read_vocabulary
from engines.models.causal import CausalModel
from engines.models.spelling import Spelling
from engines.runner import Run
from tests.engines.laws import finished, only


def refusal(work: Callable[[], object]) -> BadGrammar:
    """The sentence, which must come within three seconds and hold no foreign trace."""
    start = time.process_time()  # a busy machine is no fault of ours
    with pytest.raises(BadGrammar) as refused:
        work()
    assert time.process_time() - start < 3
    said = str(refused.value)
    assert said.endswith(".")
    assert len(said) < 400
    assert not re.search(r"Traceback|\.rs:|⟦|≺|<unused|parse error:", said)
    return refused.value


def made(model: CausalModel, kind: Kind, text: str, **options: object) -> Constraint:
    start = time.process_time()
    constraint = compile_guidance(kind, text, model.vocabulary, **options)  # type: ignore[arg-type]
    assert time.process_time() - start < 3
    return constraint


def write(constraint: Constraint, text: str) -> Constraint:
    for token in constraint.vocabulary.tokenise(text):
        assert constraint.commit(token), (text, constraint.vocabulary.bytes_of[token])
    return constraint


# ------------------------------------------------------------------------------------------------- rules without an end


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('start: a\na: "x" a', (1, 1)),
        ("a: start\n?start: a", (2, 2)),
        ("start: start+", (1, 1)),
        ('start: a | b\na: "(" a ")"\nb: a b', (1, 1)),
        ('start: ("x" start)~1..3', (1, 1)),
        ('start: "ok" a\na: "\\x04"', (1, 1)),
    ],
)
def test_a_grammar_whose_texts_never_end_is_refused_by_both_engines(
    smollm: CausalModel, text: str, place: tuple[int, int]
) -> None:
    said = refusal(lambda: compile_guidance("grammar", text, smollm.vocabulary))
    assert "no finite text" in str(said) or "No text fits" in str(said)
    if "finite" in str(said):
        assert (said.line, said.column) == place
    refusal(lambda: Language(text, smollm.vocabulary))


@pytest.mark.parametrize(
    "text",
    [
        'start: a\na: "x" a | "y"',
        'start: ("x" start)~0..2',
        "start: [start]",
        'start: (start "a")*',
        'start: A\nA: "a" B\nB: /x/',
        'start: "ok\\x04" | "fine"',
        'start: "a" -> name | start "b"',
        'start: x{"a"}\nx{y}: "k" y',
        "start: %json {}",
        "not a grammar",
        "start: " + "(" * 3000 + '"a"' + ")" * 3000,
        "start: " + " ".join(f'("a{i}" | "b{i}")' for i in range(30)),
    ],
)
def test_no_grammar_with_a_text_that_ends_is_called_endless_nor_one_that_cannot_be_judged(
    smollm: CausalModel, text: str
) -> None:
    start = time.process_time()
    assert not no_text_ends(text, smollm.vocabulary)
    assert time.process_time() - start < 2


def test_a_chain_of_hundreds_of_rules_is_judged_in_time(smollm: CausalModel) -> None:
    order = list(range(800))
    random.Random(0).shuffle(order)
    chain = "\n".join(f"r{i}: r{i + 1}" for i in order)
    start = time.process_time()
    assert not no_text_ends(f'start: r0\n{chain}\nr800: "a"', smollm.vocabulary)
    assert time.process_time() - start < 3


def test_endless_is_what_the_tables_call_so() -> None:
    """Against the other reading of the same notation, on small random grammars."""
    rng = random.Random(3)
    letters = Vocabulary([b"x", b"y", b""], [], [2], lambda text: [], lambda id: Token(id, ""))
    verdicts = []
    for _ in range(150):
        names = ("start", "a", "b")

        def item(names: tuple[str, ...] = names) -> str:
            return rng.choice([*names, *names, '"x"', '["y"]', "a+", "(b)*", '(a | b "x")'])

        text = "\n".join(
            f"{name}: "
            + " | ".join(" ".join(item() for _ in range(rng.randint(1, 3))) for _ in range(rng.randint(1, 2)))
            for name in names
        )
        try:
            Grammar.from_lark(text)
            ends = True
        except BadGrammar as error:
            ends = "no finite text" not in str(error)
        assert no_text_ends(text, letters) == (not ends), text
        verdicts.append(ends)
    assert 20 < sum(verdicts) < 130


# -------------------------------------------------------------------------------------------- terminals and expressions


def test_a_terminal_that_matches_nothing_is_refused_where_it_is_lexed_and_harmless_where_it_is_not(
    smollm: CausalModel,
) -> None:
    text = "start: A*\nA: /a*/"
    assert "empty text" in str(refusal(lambda: Language(text, smollm.vocabulary)))
    assert made(smollm, "grammar", text).accepting


@pytest.mark.parametrize(
    ("expression", "construct"), [("(?=a)a", "look-ahead"), ("(?<!a)b", "look-behind"), (r"(a)\1", "back-?reference")]
)
def test_the_construct_that_is_not_regular_is_named_wherever_it_stands(
    smollm: CausalModel, expression: str, construct: str
) -> None:
    schema = json.dumps({"type": "string", "pattern": expression})
    texts: list[tuple[Kind, str]] = [("regex", expression), ("grammar", f"start: A\nA: /{expression}/")]
    for kind, text in [*texts, ("json schema", schema)]:
        said = refusal(lambda kind=kind, text=text: compile_guidance(kind, text, smollm.vocabulary))  # type: ignore[misc]
        assert re.search(construct, str(said), re.IGNORECASE), (kind, str(said))
    said = refusal(lambda: Language(f"start: A\nA: /{expression}/", smollm.vocabulary))
    assert re.search(construct, str(said))
    assert said.line == 2


def test_counters_in_counters_are_fine_for_the_tables_too(smollm: CausalModel) -> None:
    nested = "((a{1,100}){1,100}){1,100}"
    start = time.process_time()
    made_ = SynCode(Language(f"start: /{nested}/ /c/", smollm.vocabulary))
    assert time.process_time() - start < 3
    theirs = made(smollm, "grammar", f"start: /{nested}/ /c/")
    for piece in ("a", "aaaa", "aa"):
        write(made_, piece)
        write(theirs, piece)
        assert made_.vocabulary.ids(made_.mask()) == theirs.vocabulary.ids(theirs.mask())


@pytest.mark.parametrize(
    "expression",
    ["(a{2,3}){1,5}", "(a{3,4}){1,3}", "(a{3,4}){0,3}", "(a{3}){0,}", "((a{2})*){2}", "(a{0,2}){3}", "(a{5}){2,3}",
     "((a{1,2}){2,3}){2}", "(a{4,6}){2,}", "(?i:a{2}){3}", "(a{0}){3,}", "(a{2,}){0,2}", "(a{7,8}){0,1}"],
)  # fmt: skip
def test_a_counter_of_a_counter_matches_what_python_matches(expression: str) -> None:
    automaton = from_regex(expression)
    lengths = range(50)
    for letter in "aA":
        expected = [re.fullmatch(expression, letter * length) is not None for length in lengths]
        assert [automaton.matches(letter.encode() * length) for length in lengths] == expected


def test_a_counter_ends_where_it_says_unless_no_run_gets_there() -> None:
    assert not from_regex("a{0,1500}").matches(b"a" * 1501)
    assert from_regex(f"a{{0,{LONGEST_TEXT}}}").matches(b"a" * (LONGEST_TEXT + 1))
    assert len(from_regex("(a{1,1000}){1,1000}")) < 4
    refusal(lambda: from_regex(f"a{{0,{LONGEST_TEXT - 1}}}"))
    refusal(lambda: from_regex(f"a{{{LONGEST_TEXT},}}"))


# -------------------------------------------------------------------------------------------------------------- schemas


def test_a_huge_schema_is_read_or_refused_in_time(smollm: CausalModel) -> None:
    wide = {f"p{i}": {"properties": {f"q{j}": {"type": "string"} for j in range(40)}} for i in range(50)}
    assert made(smollm, "json schema", json.dumps({"properties": wide})).mask().any()
    assert made(smollm, "json schema", json.dumps({"enum": [f"value {i}" for i in range(5000)]})).mask().any()
    too_long = json.dumps({"enum": [f"value {i}" for i in range(50_000)]})
    assert "characters" in str(refusal(lambda: compile_guidance("json schema", too_long, smollm.vocabulary)))


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "array", "minItems": 3, "maxItems": 1},
        {"type": "string", "enum": [1, 2]},
        False,
    ],
)
def test_a_schema_in_conflict_with_itself_is_refused_before_the_run(smollm: CausalModel, schema: object) -> None:
    said = refusal(lambda: compile_guidance("json schema", json.dumps(schema), smollm.vocabulary))
    assert re.search("(?i)unsatisfiable|no text fits", str(said))


@pytest.mark.parametrize(
    ("keyword", "schema"),
    [
        ("uniqueItems", {"type": "array", "uniqueItems": True}),
        ("not", {"not": {"type": "string"}}),
        ("if", {"if": {"type": "string"}, "then": {"minLength": 2}}),
        ("contains", {"type": "array", "contains": {"const": 1}}),
        ("propertyNames", {"type": "object", "propertyNames": {"maxLength": 3}}),
        ("dependentRequired", {"type": "object", "dependentRequired": {"a": ["b"]}}),
    ],
)
def test_a_keyword_that_cannot_be_enforced_is_named_and_the_way_out_that_is_offered_works(
    smollm: CausalModel, keyword: str, schema: object
) -> None:
    text = json.dumps(schema)
    said = str(refusal(lambda: compile_guidance("json schema", text, smollm.vocabulary)))
    assert keyword in said
    assert "AWRS" in said
    assert checker_for("json schema and validator", "", "none", text, smollm)


# --------------------------------------------------------------------------------- what the tokens can and cannot spell


def test_a_choice_that_no_tokens_spell_is_named_with_its_byte(smollm: CausalModel) -> None:
    for choice, byte in (("ok\x04", "04"), ("hello \U00040000", "F1")):
        said = str(refusal(lambda choice=choice: compile_guidance("choices", f"fine\n{choice}", smollm.vocabulary)))  # type: ignore[misc]
        assert f"the byte {byte}" in said
        assert repr(choice) in said


def test_a_grammar_that_leads_to_a_byte_that_no_token_has_gives_up_there_in_words(smollm: CausalModel) -> None:
    constraint = made(smollm, "regex", r"ok\x04|fine")
    assert write(constraint.fork(), "fine").accepting
    write(constraint, "ok")
    with pytest.raises(GrammarLimit, match="a byte here that no token of this model has"):
        constraint.mask()


def test_half_a_character_is_refused_with_its_place(smollm: CausalModel) -> None:
    for kind in ("choices", "regex", "grammar", "json schema"):
        said = refusal(lambda kind=kind: compile_guidance(kind, "a\nb\ud800", smollm.vocabulary))  # type: ignore[misc]
        assert (said.line, said.column) == (2, 2)


PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
PIECES += ["▁", "a", "b", "é", "▁a", "ab", "日", "<0x0G>"]


@pytest.fixture(scope="module")
def sentences() -> Vocabulary:
    """A vocabulary as SentencePiece makes them: ▁ for a space, one before every text, bytes as `<0x0A>`; padded."""
    merges = [("▁", "a"), ("a", "b")]
    pieces = {piece: id for id, piece in enumerate(PIECES)}
    backend = Tokenizer(models.BPE(pieces, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    return read_vocabulary(tokenizer, Spelling(tokenizer), 301, [2])


def test_byte_fallback_tokens_spell_their_byte_and_two_that_spell_the_same_are_allowed_together(
    sentences: Vocabulary,
) -> None:
    assert sentences.bytes_of[PIECES.index("<0xE3>")] == b"\xe3"
    assert sentences.bytes_of[PIECES.index("<0x0G>")] == b"<0x0G>"
    assert sentences.bytes_of[PIECES.index("▁a")] == b" a"
    grammar = 'start: /日+é?/ "ab"'
    whole, first = PIECES.index("日"), PIECES.index("<0xE6>")
    sides: list[Constraint] = [
        compile_guidance("grammar", grammar, sentences),
        SynCode(Language(grammar, sentences)),
    ]
    for side in sides:
        assert sentences.ids(side.mask()) == [first, whole]
        for piece in ("<0xE6>", "<0x97>", "<0xA5>", "日"):
            assert side.commit(PIECES.index(piece))
        followers = {PIECES.index(piece) for piece in ("a", "<0x61>", "ab", "é", "<0xC3>", "日", "<0xE6>")}
        assert set(sentences.ids(side.mask())) == followers
        twins = [side.fork(), side.fork()]
        assert twins[0].commit(PIECES.index("a"))
        assert twins[1].commit(PIECES.index("<0x61>"))
        assert (twins[0].mask() == twins[1].mask()).all()


def test_peers_read_byte_fallback_tokens_too(sentences: Vocabulary) -> None:
    for engine in ("xgrammar", "outlines-core"):
        if engine in installed():
            side = compile_with(engine, "regex", "日b", sentences)
            assert sentences.ids(side.mask()) == [PIECES.index("<0xE6>"), PIECES.index("日")], engine


@pytest.mark.parametrize("text", ["ab", " ab", "a b", "日 é", "\n\ta", "😀", "<s>"])
def test_the_tokens_of_a_text_spell_it_though_the_tokenizer_puts_a_space_before_it(
    sentences: Vocabulary, text: str
) -> None:
    ids = sentences.tokenise(text)
    assert sentences.special.isdisjoint(ids)
    assert sentences.decode(ids) == text.encode()


def test_forcing_does_not_smuggle_that_space_into_the_text(sentences: Vocabulary) -> None:
    forced = compile_guidance("choices", "ab", sentences, forcing=True)
    assert sentences.decode(forced.forced()) == b"ab"
    assert all(sentences.bytes_of[id][:1] == b"a" for id in sentences.ids(forced.mask()))
    assert sentences.decode(compile_guidance("choices", "ab", sentences).forced()) == b"ab"


def test_padding_behind_the_vocabulary_is_never_allowed_and_leaves_no_bit(sentences: Vocabulary) -> None:
    """301 logits, of which 267 are tokens; neither is a multiple of 8."""
    anything: list[Constraint] = [
        compile_guidance("regex", r"(.|\n)*", sentences),
        SynCode(Language(r"start: /(.|\n)+/", sentences)),
    ]
    anything += [compile_with("xgrammar", "regex", "[^b]*", sentences)] if "xgrammar" in installed() else []
    for side in anything:
        mask = side.mask()
        assert max(sentences.ids(mask)) == len(PIECES) - 1
        assert (sentences.bits(sentences.ids(mask)) == mask).all()
        assert not any(side.allows(id) or side.commit(id) for id in range(len(PIECES), 301))
        assert len(Gate(side).allowed([])) == 301


def test_a_special_token_in_a_grammar_is_named_and_its_letters_are_text(smollm: CausalModel) -> None:
    said = refusal(lambda: compile_guidance("grammar", 'start: "ok" <|im_end|>', smollm.vocabulary))
    assert (said.line, said.column) == (1, 8)
    assert "<|im_end|> is a special token" in str(said)
    for text in ('start: "<|im_end|>"', "start: /<\\|im_end\\|>/"):
        for constraint in (made(smollm, "grammar", text), SynCode(Language(text, smollm.vocabulary))):
            assert smollm.vocabulary.special.isdisjoint(smollm.vocabulary.ids(constraint.mask()))
            assert write(constraint, "<|im_end|>").accepting


def test_a_grammar_that_asks_for_special_tokens_by_number_comes_to_a_dead_end(smollm: CausalModel) -> None:
    constraint = write(made(smollm, "grammar", 'start: "ok" <[3-5]>'), "ok")
    assert not constraint.mask().any()
    with pytest.raises(DeadEnd):
        Gate(constraint).allowed([])


TWO_ENDS = Vocabulary(
    [*(bytes([byte]) for byte in range(128)), b"", b"", b""],
    special=[130],
    ends=[128, 129],
    tokenise=lambda text: list(text.encode()),
    spell=lambda id: Token(id, chr(id)),
)


def test_of_several_ends_all_are_legal_where_the_text_may_end_and_none_elsewhere() -> None:
    sides: list[Constraint] = [
        compile_guidance("regex", "a(bc)?", TWO_ENDS),
        SynCode(Language("start: /a(bc)?/", TWO_ENDS)),
    ]
    sides += [compile_with("xgrammar", "regex", "a(bc)?", TWO_ENDS)] if "xgrammar" in installed() else []
    for side in sides:
        for text, ends in (("", False), ("a", True), ("ab", False), ("abc", True)):
            here = side.fork()
            assert all(here.commit(byte) for byte in text.encode())
            assert [end in TWO_ENDS.ids(here.mask()) for end in (128, 129)] == [ends, ends], (side.engine, text)
            assert [here.fork().commit(end) for end in (128, 129)] == [ends, ends]
            assert here.accepting == ends


# ----------------------------------------------------------------------------------------------------- whitespace, text


def test_by_default_no_whitespace_goes_on_for_ever(smollm: CausalModel) -> None:
    constraint = write(made(smollm, "json schema", PERSON), '{"name": ')
    begins = {smollm.vocabulary.bytes_of[id][:1] for id in smollm.vocabulary.ids(constraint.mask())}
    assert begins == {b'"'}


def test_the_constraint_begins_with_the_generated_text_whatever_the_prompt_ends_with(smollm: CausalModel) -> None:
    params = {"constraint": "choices", "grammar": "yes\nno"}
    for prompt in ("Is water wet? ye", "Say: <|im_end|>", "n"):
        events = list(run(smollm, "grammar-mask", prompt, params=params, max_new_tokens=4, raw=True))
        assert finished(events).text in ("yes", "no")


# -------------------------------------------------------------------------------------------------------- wrong numbers


@pytest.mark.parametrize("number", [float("nan"), float("-inf"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_end_the_run_and_choose_nothing(
    tiny_llama: CausalModel, monkeypatch: pytest.MonkeyPatch, number: float, temperature: float
) -> None:
    honest = Run.next_logits

    def broken(job: Run) -> Tensor:
        logits = honest(job)
        return logits if len(job.output) < 2 else torch.full_like(logits, number)

    monkeypatch.setattr(Run, "next_logits", broken)
    params = {"constraint": "regex", "grammar": "[a-c]{5}", "temperature": temperature}
    events = list(run(tiny_llama, "grammar-mask", "x", params=params, max_new_tokens=8))
    assert finished(events).reason == "dead end"
    assert re.fullmatch("[a-c]{2}", finished(events).text)
    assert any("Nothing may follow" in note.text for note in only(events, Note))


def test_where_the_model_rules_out_all_that_is_allowed_the_text_ends_there(tiny_llama: CausalModel) -> None:
    gate = Gate(constraint_for("regex", "[ab]", tiny_llama))
    a, b = (tiny_llama.vocabulary.bytes_of.index(letter) for letter in (b"a", b"b"))
    logits = torch.zeros(257)
    logits[[a, b]] = float("-inf")
    with pytest.raises(DeadEnd):
        gate.filtered(logits, [])
    with pytest.raises(DeadEnd):
        gate.filtered(torch.stack([torch.zeros(257), logits]), [])
    logits[b] = -3.0
    logits[5] = float("nan")
    assert gate.filtered(logits, []).softmax(-1).tolist() == [float(id == b) for id in range(257)]


# ------------------------------------------------------------------------------------------------------- everybody else


def walk(constraint: Constraint, seed: int) -> list[int]:
    """A random text, and how many tokens were allowed at each place."""
    rng, seen = random.Random(seed), []
    for _ in range(6):
        allowed = [id for id in constraint.vocabulary.ids(constraint.mask()) if id not in constraint.vocabulary.ends]
        seen.append(len(allowed))
        if not allowed:
            break
        seen.append(rng.choice(allowed))
        assert constraint.commit(seen[-1])
    return seen


@pytest.mark.parametrize("how", ["llguidance", "syncode"])
def test_many_people_with_the_same_grammar_each_get_what_one_alone_gets(
    smollm: CausalModel, own_cache: object, how: str
) -> None:
    def begin() -> Constraint:
        if how == "syncode":
            return SynCode(language_for(ARITHMETIC, smollm.vocabulary))
        return constraint_for("grammar", ARITHMETIC, smollm)

    with ThreadPoolExecutor(6) as crowd:
        together = list(crowd.map(lambda seed: walk(begin(), seed), range(6)))
    fresh = Language(ARITHMETIC, smollm.vocabulary)
    for seed, found in enumerate(together):
        alone = SynCode(fresh) if how == "syncode" else compile_guidance("grammar", ARITHMETIC, smollm.vocabulary)
        assert walk(alone, seed) == found


HOSTILE: list[tuple[Kind, str]] = [
    ("grammar", 'start: a\na: "x" a'),
    ("grammar", "start: " + "(" * 3000),
    ("grammar", "start: " + " ".join(f'("a{i}" | "b{i}")' for i in range(30))),
    ("regex", "((((a{1,1000}){1,1000}){1,1000}){1,1000}"),
    ("regex", "(" * 5000),
    ("json schema", '{"items":' * 20_000 + "{}" + "}" * 20_000),
    ("json schema", '{"$ref": "#"}'),
    ("choices", "\ud800"),
]


def test_a_run_goes_on_as_if_nothing_happened_while_others_send_what_cannot_be_read(smollm: CausalModel) -> None:
    params = {"constraint": "json schema", "grammar": PERSON}

    def decode() -> list[tuple[Token, int]]:
        events = list(run(smollm, "grammar-mask", "Describe a person.", params=params, max_new_tokens=12))
        masks = [mask.allowed for mask in only(events, Mask)]
        return list(zip((placed.token for placed in committed(events)), masks, strict=True))

    def send(request: tuple[Kind, str]) -> str:
        said = ""
        for make in (compile_guidance, lambda kind, text, words: Grammar.from_lark(text, seconds=0.5)):
            try:
                make(*request, smollm.vocabulary)
            except BadGrammar as error:
                said = str(error)
        return said

    alone = decode()
    with ThreadPoolExecutor(2) as others:
        answers = others.map(send, HOSTILE)
        beside = decode()
        assert all(answers)
    assert beside == alone

"""SynCode: the worked example, brute force over random grammars, the reference's faults, llguidance, and its runs."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence

import msgspec
import pytest

from engines.chi_square import fit
from engines.constrained.syncode import Language, Params, SynCode, language_for, syncode
from engines.events import Candidates, Compiled, Event, Mask, Note, Token, Trials, committed
from engines.grammars.closing import shortest_completion
from engines.grammars.constraint import BadGrammar, DeadEnd, GrammarLimit
from engines.grammars.gate import Gate
from engines.grammars.guidance import compile_guidance
from engines.grammars.vocabulary import Vocabulary
from engines.models.causal import CausalModel
from engines.runner import run
from tests.engines.constrained.brute_force import LETTERS, PIECES, Brute, random_grammars
from tests.engines.laws import check_stream, finished, only, untimed
from tests.engines.toy import ToyModel, toy_run

WORKED = 'start: "(" NUM ("," NUM)* ")"\nNUM: /[0-9]+/'
TOKENS = ("(", ")", ",", "1", "12", "1,", ",2", "2)", "(1", "),", "1,2")
JSON = r"""
start: value
value: object | array | STRING | NUMBER | "true" | "false" | "null"
object: "{" (pair ("," pair)*)? "}"
pair: STRING ":" value
array: "[" (value ("," value)*)? "]"
STRING: /"([^"\\\x00-\x1f\x7f]|\\(["\\\/bfnrt]|u[0-9a-fA-F]{4}))*"/
NUMBER: /-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/
%ignore /[ \t\n\r]+/
"""


def vocabulary(pieces: Sequence[str | bytes]) -> Vocabulary:
    """The pieces as tokens, then the end of text, then a special token."""
    spelled = [piece.encode() if isinstance(piece, str) else piece for piece in pieces]
    names = [piece.decode("utf-8", "replace") for piece in spelled]
    count = len(spelled)
    return Vocabulary(
        [*spelled, b"", b""], [count + 1], [count], lambda text: [], lambda id: Token(id, [*names, "", ""][id])
    )


def constraint(grammar: str, pieces: Sequence[str | bytes], text: Sequence[str] = (), **how: object) -> SynCode:
    """The constraint behind a text, given as tokens."""
    published = bool(how.pop("as_published", False))
    made = SynCode(Language(grammar, vocabulary(pieces), as_published=published), **how)  # type: ignore[arg-type]
    for piece in text:
        assert made.commit(list(pieces).index(piece)), piece
    return made


def allowed(made: SynCode) -> set[str]:
    """The allowed tokens, the end as `END`."""
    spelled = made.vocabulary.bytes_of
    return {
        spelled[id].decode("utf-8", "backslashreplace") if id not in made.vocabulary.ends else "END"
        for id in made.vocabulary.ids(made.mask())
    }


# ------------------------------------------------------------------------------------------------ the worked example


def test_behind_a_digit_nine_tokens_are_allowed_eight_are_legal_and_one_needs_a_third_terminal() -> None:
    rough = constraint(WORKED, TOKENS, ["(", "1"], mode="mask")
    exact = constraint(WORKED, TOKENS, ["(", "1"])
    assert allowed(rough) == {",", "1", "12", "1,", ",2", "1,2", ")", "2)", "),"}
    assert allowed(rough) - allowed(exact) == {"),"}
    assert len(allowed(exact)) == 8


def test_the_two_entries_are_those_of_the_example() -> None:
    made = constraint(WORKED, TOKENS, ["(", "1"], mode="mask")
    entries = {
        branch.sequence: {
            TOKENS[id]
            for id in made.vocabulary.ids(
                made.language.store.mask(branch.terminal, branch.state, branch.follow, branch.kind)
            )
        }
        for branch in made.branches()
    }
    assert entries == {
        ("NUM", "COMMA"): {",", "1", "12", "1,", ",2", "1,2"},
        ("NUM", "RPAR"): {")", "1", "12", "2)", "),"},
    }


def test_without_lookahead_everything_passes_behind_a_digit() -> None:
    assert allowed(constraint(WORKED, TOKENS, ["(", "1"], mode="mask", lookahead=0)) == set(TOKENS)
    assert set(TOKENS) - allowed(constraint(WORKED, TOKENS, ["(", "1"], lookahead=0)) == {"(", "(1", "),"}


def test_behind_the_bracket_the_mask_is_exact_and_the_strict_one_takes_no_token_of_three_terminals() -> None:
    for mode in ("mask", "exact"):
        assert allowed(constraint(WORKED, TOKENS, ["("], mode=mode)) == {"1", "12", "1,", "2)", "1,2"}
    assert allowed(constraint(WORKED, TOKENS, ["("], mode="strict")) == {"1", "12"}
    assert allowed(constraint(WORKED, TOKENS, ["(", "1"], mode="strict")) == {"1", "12", ",", ")", "1,", "2)"}


def test_the_view_tells_the_remainder_its_kind_and_the_accept_sequences() -> None:
    made = constraint(WORKED, TOKENS, ["(", "1"], mode="mask")
    view = made.view()
    assert (view["text"], view["remainder"], view["kind"], view["terminal"]) == ("(", "1", "MAYBE", "NUM")
    assert set(view["accept sequences"].split("\n")) == {"NUM → “,”: 6", "NUM → “)”: 5"}
    assert view["stack"] == "“(”"


def test_the_end_is_allowed_exactly_where_the_parser_takes_it() -> None:
    assert "END" not in allowed(constraint(WORKED, TOKENS, ["(", "1"]))
    behind = constraint(WORKED, TOKENS, ["(", "1", ")"])
    assert allowed(behind) == {"END"}
    assert behind.commit(len(TOKENS))
    assert not behind.mask().any()
    assert not behind.accepting


# -------------------------------------------------------------------------------------- brute force, random grammars

GRAMMARS = list(random_grammars(220))


def test_the_random_grammars_are_different_and_not_all_trivial() -> None:
    assert len(set(GRAMMARS)) > 200
    assert sum("%ignore" in text for text in GRAMMARS) > 20
    assert sum(text.count("\n") > 4 for text in GRAMMARS) > 50


def test_no_legal_token_is_ever_masked_and_in_exact_mode_no_illegal_one_is_left() -> None:
    rng = random.Random(0)
    words = vocabulary(PIECES)
    places = false_accepts = 0
    for text in GRAMMARS:
        brute = Brute(text)
        language = Language(text, words)
        exact = SynCode(language)
        rough = [SynCode(language, mode="mask", lookahead=a) for a in (0, 1)]
        bare = SynCode(language, lookahead=0)
        written = ""
        for _ in range(4):
            legal = {id for id, piece in enumerate(PIECES) if brute.legal(written + piece)}
            here = set(words.ids(exact.mask() & words.plain_bits))
            assert here == legal, (text, written)
            assert set(words.ids(bare.mask() & words.plain_bits)) == legal, (text, written)
            assert {id for id in range(len(PIECES)) if exact.allows(id)} == legal, (text, written)
            assert exact.accepting == brute.complete(written), (text, written)
            for one in rough:
                loose = set(words.ids(one.mask() & words.plain_bits))
                assert legal <= loose, (text, written, [PIECES[id] for id in legal - loose])
                false_accepts += len(loose - legal)
            places += 1
            if not legal:
                break
            token = rng.choice(sorted(legal))
            written += PIECES[token]
            for one in (exact, bare, *rough):
                assert one.commit(token)
    assert places > 500
    assert false_accepts > 100, "one terminal of foresight is not always enough, so the mask must be loose somewhere"


def test_whole_words_found_by_enumeration_can_be_written_and_nothing_else_may_end() -> None:
    words = vocabulary(PIECES)
    found = 0
    for text in GRAMMARS[:120]:
        brute, language = Brute(text), Language(text, words)
        for size in range(1, 5):
            for letters in itertools.product(LETTERS, repeat=size):
                reading = language.begin(language.table.begin())
                ours = language.may_end(language.read(reading, "".join(letters).encode()))
                assert ours == brute.complete("".join(letters)), (text, letters)
                found += ours
    assert found > 500


def test_what_a_mask_holds_commit_takes_and_rollback_forgets() -> None:
    words = vocabulary(PIECES)
    for text in GRAMMARS[:60]:
        for mode in ("mask", "strict", "exact"):
            made = SynCode(Language(text, words), mode=mode)
            before = made.mask().copy()
            for id in range(len(words)):
                fresh = made.fork()
                fresh._mask = None
                inside = id in words.ids(before)
                assert fresh.allows(id) == inside, (text, mode, id)
                assert made.commit(id) == inside
                if inside:
                    made.rollback(1)
            assert (made.mask() == before).all()


# --------------------------------------------------------------------------------------------- the reference's faults

NUMBERS = 'start: NUMBER (SPACE NUMBER)*\nNUMBER: /-?[0-9]+(\\.[0-9]+)?/\nSPACE: " "'


def test_a_token_that_ends_in_a_point_is_allowed_where_a_fraction_may_follow() -> None:
    pieces = ("1", "1.", ".", "5", " ")
    assert "1." in allowed(constraint(NUMBERS, pieces, ["5"], mode="mask"))
    assert "1." in allowed(constraint(NUMBERS, pieces, ["5"]))


def test_as_published_that_token_is_lost_and_nothing_else() -> None:
    pieces = ("1", "1.", ".", "5", " ")
    ours = allowed(constraint(NUMBERS, pieces, ["5"], mode="mask"))
    theirs = allowed(constraint(NUMBERS, pieces, ["5"], mode="mask", as_published=True))
    assert ours - theirs == {"1."}
    made = constraint(NUMBERS, pieces, ["5"], mode="mask", as_published=True)
    assert not made.allows(1)


def test_a_character_may_be_split_over_tokens() -> None:
    first, second, third = (bytes([byte]) for byte in "日".encode())
    pieces: list[str | bytes] = ['"', "x", first, second, third, "é", 'é"']
    grammar = 'start: STRING\nSTRING: /"[^"]{1,2}"/'
    made = constraint(grammar, pieces, ['"'])
    assert {2, 5, 1, 6} <= set(made.vocabulary.ids(made.mask()))
    assert made.commit(2)
    assert made.view()["kind"] == "INCOMPLETE"
    assert made.vocabulary.ids(made.mask()) == [3, 4], "only what goes on with the character"
    assert made.commit(3)
    assert made.vocabulary.ids(made.mask()) == [3, 4]
    assert made.commit(4)
    assert made.commit(5), "é is the second character of the two, not the third byte too many"
    assert made.vocabulary.ids(made.mask()) == [0]


def test_tokens_of_several_terminals_are_allowed_at_the_very_beginning() -> None:
    assert "(1" in allowed(constraint(WORKED, TOKENS, mode="mask"))


def test_special_tokens_are_never_allowed() -> None:
    for mode in ("mask", "strict", "exact"):
        made = constraint(WORKED, TOKENS, mode=mode)
        special = len(TOKENS) + 1
        assert special not in made.vocabulary.ids(made.mask())
        assert not made.allows(special)
        assert not made.commit(special)


def test_a_false_accept_leads_to_a_dead_end_and_never_to_freedom() -> None:
    made = constraint(WORKED, TOKENS, ["(", "1", "),"], mode="mask")
    assert not made.mask().any()
    assert made.view()["kind"] == "DEAD"
    with pytest.raises(DeadEnd):
        Gate(made.fork()).allowed([])
    assert not any(made.allows(id) for id in range(len(made.vocabulary)))
    made.rollback(1)
    assert "1" in allowed(made)


def test_tabs_stay_tabs() -> None:
    pieces = ("a", "\t", "    ")
    assert allowed(constraint('start: "a" "\\t" "a"', pieces, ["a"])) == {"\t"}


# --------------------------------------------------------------------------------------- longest match and its limits


def test_where_a_longer_terminal_fails_the_shorter_one_is_taken() -> None:
    grammar = 'start: (NUMBER | ".")+\nNUMBER: /[0-9]+(\\.[0-9]+)?/'
    pieces = ("1", ".", "..", "1.", "x")
    made = constraint(grammar, pieces, ["1", "."])
    assert made.reading is not None
    assert made.reading.rest == b"1."
    assert allowed(made) == {"1", ".", "..", "1.", "END"}
    assert made.commit(1)
    assert made.reading.rest == b".", "`1.` was not a number with a fraction, but a number and a point"


def test_ignored_text_may_stand_anywhere_and_does_not_hide_what_follows_it() -> None:
    grammar = 'start: A B\nA: "a"\nB: "b"\n%ignore /[ ]+/'
    pieces = ("a", "b", " ", " b", "  b", " a", "a b", " x", "b ")
    assert allowed(constraint(grammar, pieces)) == {"a", " ", " a", "a b"}
    made = constraint(grammar, pieces, ["a"])
    assert allowed(made) == {"b", " ", " b", "  b", "b "}
    rough = constraint(grammar, pieces, ["a"], mode="mask")
    assert allowed(rough) == {"b", " ", " b", "  b", "b "}
    assert allowed(constraint(grammar, pieces, ["a", "b", " "])) == {" ", "END"}


def test_a_lexer_that_would_read_the_same_text_again_and_again_gives_up_aloud() -> None:
    grammar = 'start: (A | LONG)+\nA: "a"\nLONG: /a+b/'
    language = Language(grammar, vocabulary(["a", "b", "c"]))
    assert language.read(language.begin(language.table.begin()), b"a" * 3000 + b"ba") is not None
    with pytest.raises(GrammarLimit):
        language.read(language.begin(language.table.begin()), b"a" * 3000 + b"c")


# ---------------------------------------------------------------------------------------------- against llguidance


def test_on_the_embedded_models_tokens_every_mask_equals_that_of_llguidance(smollm: CausalModel) -> None:
    """Ignored text before and behind the whole is allowed by Lark and by us, not by llguidance: left out here."""
    words = smollm.vocabulary
    ours, theirs = SynCode(Language(JSON, words)), compile_guidance("grammar", JSON, words)
    text = '{"name": "Zoë 日本 \\u00e9", "n": [1, -2.5e3, {}, [true, null]], "x": {"y": ""}}'
    loose = 0
    for place, token in enumerate(words.tokenise(text)):
        if place:
            assert words.ids(ours.mask()) == words.ids(theirs.mask()), (place, words.bytes_of[token])
            loose += words.ids(ours.looked_up()) != words.ids(ours.mask())
        assert ours.commit(token)
        assert theirs.commit(token)
    assert loose > 10, "the looked-up masks alone are larger, or the parser has nothing to do"
    assert ours.accepting
    assert theirs.accepting


def test_soundness_on_real_tokens_at_the_first_place_too(smollm: CausalModel) -> None:
    words = smollm.vocabulary
    made = SynCode(Language(JSON, words))
    theirs = compile_guidance("grammar", JSON, words)
    assert set(words.ids(theirs.mask())) <= set(words.ids(made.mask()))


# -------------------------------------------------------------------------------------------------------------- runs


class Five(ToyModel):
    """Five tokens and the end, which no place prefers; with a vocabulary, so that it can be held to a grammar."""

    def __init__(self) -> None:
        super().__init__("ab()x.", [[0.3, 0.25, 0.2, 0.1, 0.1, 0.05]] * 6)
        spelled = [*(letter.encode() for letter in "ab()x"), b""]
        self.vocabulary = Vocabulary(spelled, [], [5], lambda text: [], self.token)


GATED = 'start: ("a" ")" | "b" | "(" "a") ["x"]'


def first_two(seed: int, **params: object) -> tuple[int, ...]:
    job = toy_run(Five(), "x", seed=seed, max_new_tokens=2)
    list(syncode(job, Params(grammar=GATED, **({"temperature": 1.0} | params))))  # type: ignore[arg-type]
    return tuple(job.output)


@pytest.mark.parametrize(
    "how", [{}, {"lookahead": 0}, {"opportunistic": True}, {"opportunistic": True, "lookahead": 0}]
)
def test_drawing_first_or_parsing_afterwards_leaves_the_distribution_as_it_is(
    how: dict[str, object], own_cache: object
) -> None:
    """The law by hand: a, b or ( by their shares of .75; then the one that must follow, or x or the end by theirs."""
    law = {(0, 3): 0.3 / 0.75, (1, 4): 0.25 / 0.75 * 0.1 / 0.15, (1, 5): 0.25 / 0.75 * 0.05 / 0.15, (2, 0): 0.2 / 0.75}
    found = fit(Counter(first_two(seed, **how) for seed in range(500)), law)
    assert found.consistent, found


def test_with_a_filter_an_illegal_token_takes_no_place_from_a_legal_one(own_cache: object) -> None:
    """Behind “b” only x and the end are legal, of .1 and .05; without lookahead a, b and ( pass the first mask too."""
    law = {(1, 4): 2 / 3, (1, 5): 1 / 3}
    drawn = Counter(pair for seed in range(400) if (pair := first_two(seed, lookahead=0, top_k=2))[0] == 1)
    assert fit(drawn, law).consistent
    assert sum(drawn.values()) > 100


def test_the_shortcut_builds_no_mask_for_a_token_that_is_legal_as_drawn(own_cache: object) -> None:
    job = toy_run(Five(), "x", max_new_tokens=3)
    events = list(syncode(job, Params(grammar='start: "a"+', opportunistic=True)))
    assert job.output == [0, 0, 0]
    assert not only([*events, *job.settle()], Mask)
    assert any("legal as drawn, for which no mask was built: 3" in note.text for note in only(events, Note))
    assert any("mask has to come first" in note.text for note in only(with_filters(), Note))


def with_filters() -> list[Event]:
    return list(syncode(toy_run(Five(), "x", max_new_tokens=2), Params(grammar=GATED, opportunistic=True, top_k=2)))


def test_what_the_parser_refuses_is_told_with_its_probability(own_cache: object) -> None:
    """Without lookahead the greedy choice behind “b” is a, then b, (, ) and x: the first four are refused."""
    job = toy_run(Five(), "x", max_new_tokens=2)
    events = list(syncode(job, Params(grammar='start: "b" "x"', lookahead=0)))
    assert job.output == [1, 4]
    (trials,) = only(events, Trials)
    assert [(one.token.text, one.accepted) for one in trials.tried] == [
        ("a", False),
        ("b", False),
        ("(", False),
        (")", False),
        ("x", True),
    ] or [one.token.text for one in trials.tried][-1] == "x"
    assert trials.refused_mass == pytest.approx(0.3 + 0.25 + 0.2 + 0.1 * (len(trials.tried) == 5), abs=1e-5)
    assert trials.weight == pytest.approx(1 - trials.refused_mass - 0.05 - 0.1 * (len(trials.tried) == 4), abs=1e-5)
    assert any("refused" in note.text for note in only(events, Note))


def test_after_many_refusals_all_tokens_are_parsed_at_once(smollm: CausalModel) -> None:
    """Hot, without lookahead, and with one legal token behind the bracket: it would take thousands of draws."""
    grammar = 'start: "{" "}" "}" "}"'
    events = decode(smollm, params={"grammar": grammar, "lookahead": 0, "temperature": 5.0}, max_new_tokens=8)
    assert "{}}}".startswith(finished(events).text)
    assert max(trials.tests for trials in only(events, Trials)) == 33
    assert finished(events).reason == "end of text"


def test_a_published_run_may_come_to_a_dead_end_and_shows_the_empty_mask(own_cache: object) -> None:
    """Without lookahead “ba” is taken, and nothing can follow."""
    job = toy_run(Five(), "x", max_new_tokens=5)
    events: list[Event] = []
    work = syncode(job, Params(grammar='start: "b" "x"', mode="mask", lookahead=0))
    with pytest.raises(DeadEnd):
        events.extend(piece for event in work for piece in (*job.settle(), event))
    assert job.output == [1, 0]
    assert only(events, Mask)[-1].allowed == 0
    assert only(events, Mask)[-1].state["kind"] == "DEAD"


PROMPT = "Compute (3 + 4) * 2."


def decode(model: CausalModel, **request: object) -> list[Event]:
    return list(run(model, "syncode", PROMPT, **({"max_new_tokens": 12} | request)))  # type: ignore[arg-type]


def test_a_run_keeps_the_laws_of_the_stream_and_to_the_grammar(smollm: CausalModel) -> None:
    events = decode(smollm, params={"temperature": 1.0}, seed=3)
    check_stream(smollm, events)
    language = language_for(Params().grammar, smollm.vocabulary)
    read = language.read(language.begin(language.table.begin()), finished(events).text.encode())
    assert read is not None
    assert len(only(events, Mask)) == len(committed(events)) == len(only(events, Candidates))
    before, after = only(events, Compiled)
    assert before.status == "ok"
    assert after.sizes["entries"] >= before.sizes["entries"]
    assert after.sizes["bytes"] == after.sizes["entries"] * 6144


def test_the_same_seed_gives_the_same_events(smollm: CausalModel) -> None:
    def told() -> list[Event]:
        """The tables, and the time that they take, depend on what was decoded before."""
        events = decode(smollm, params={"temperature": 1.0}, seed=7, max_new_tokens=6)
        return [
            msgspec.structs.replace(event, seconds=0.0) if isinstance(event, Mask) else event
            for event in untimed(events)
            if not isinstance(event, Compiled)
        ]

    assert told() == told()


def test_near_the_limit_the_text_is_closed(smollm: CausalModel) -> None:
    events = decode(smollm, params={"temperature": 1.0, "finish": True}, seed=1, max_new_tokens=12)
    assert finished(events).reason == "end of text"
    language = language_for(Params().grammar, smollm.vocabulary)
    assert language.may_end(language.read(language.begin(language.table.begin()), finished(events).text.encode()))


def test_a_run_branches_off_given_tokens_and_refuses_those_that_do_not_fit(smollm: CausalModel) -> None:
    given = smollm.vocabulary.tokenise("(3 +")
    events = decode(smollm, prefix=given, max_new_tokens=4)
    check_stream(smollm, events)
    assert finished(events).text.startswith("(3 +")
    with pytest.raises(Exception, match="does not fit the constraint"):
        decode(smollm, prefix=smollm.vocabulary.tokenise("Hello"), max_new_tokens=4)


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        ("start: a\n a: (", "Line 2"),
        ("start: nothing", "not defined"),
        ('start: e\ne: e "+" e | "1"', "conflict"),
        ('start: a\na: "x" a', "no finite text"),
        ("start: A\nA: /a*/", "empty text"),
        ("start: /(?=a)a/", "look-ahead"),
        ("start: /(a|b)*a(a|b){14}/", "too large"),
        ("", "nothing here yet"),
    ],
)
def test_a_grammar_that_cannot_be_used_is_refused_in_words(smollm: CausalModel, grammar: str, words: str) -> None:
    with pytest.raises(BadGrammar, match=words):
        decode(smollm, params={"grammar": grammar})


def test_a_short_ending_is_found_by_asking(smollm: CausalModel) -> None:
    made = SynCode(Language(JSON, smollm.vocabulary))
    for token in smollm.vocabulary.tokenise('{"a": [1, {"b'):
        assert made.commit(token)
    ending = shortest_completion(made, 20)
    assert ending is not None
    assert all(made.commit(token) for token in ending)

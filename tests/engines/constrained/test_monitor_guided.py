"""Monitor-guided decoding: what the mask is, what it prevents, and what it leaves alone."""

from __future__ import annotations

import itertools
import random
import re
import time
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
import torch

from engines import run, runner
from engines.constrained import monitor_guided
from engines.constrained.monitor_guided import SERVER, Monitor, Spellings, defined_names, without_imports
from engines.events import Draft, Event, Finished, Mask, Note, Started, Suggestions, Token, committed
from engines.grammars.analyser import Analyser, Answer, analyser
from engines.grammars.constraint import Joint
from engines.grammars.kinds import constraint_for
from engines.grammars.vocabulary import Vocabulary, has
from engines.models.causal import CausalModel
from tests.engines.laws import check_stream, finished, only, untimed

BUILDER = "from network import ServerBuilder\n\n\ndef start(ip, port):\n    builder = ServerBuilder()\n    builder."
NAMES = {"build", "with_ip", "with_port"}


@pytest.fixture(autouse=True, scope="module")
def patient() -> Iterator[None]:
    """On a busy machine the shared analyser may take its time."""
    before, analyser().seconds = analyser().seconds, 10.0
    assert analyser().warm_up()
    yield
    analyser().seconds = before


class Counting(Analyser):
    """Passes questions on to the shared one, and counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.questions: list[str] = []

    def names(self, code: str, closers: str = "") -> Answer:
        self.questions.append(code)
        return analyser().names(code, closers)


def vocabulary_of(*words: bytes) -> Vocabulary:
    """All single bytes (id = byte), the words, and an end of text."""
    pieces = [bytes([byte]) for byte in range(256)] + list(words) + [b""]
    return Vocabulary(
        pieces,
        [],
        [len(pieces) - 1],
        lambda text: list(text.encode()),
        lambda id: Token(id, pieces[id].decode("latin-1")),
    )


WORDS = (b".foo", b".build", b".build(", b".bui", b"build", b"build().foo", b"builder", b"with_", b"with_ip(", b"(a.b",
         b"._x", b" x.", b"().", b"\n", "—".encode(), " —".encode()[:3])  # fmt: skip
SMALL = vocabulary_of(*WORDS)


def id_of(word: bytes) -> int:
    return SMALL.bytes_of.index(word)


def allowed(monitor: Monitor | Joint) -> set[bytes]:
    return {monitor.vocabulary.bytes_of[id] for id in monitor.vocabulary.ids(monitor.mask())} - {b""}


def write(monitor: Monitor, text: str) -> Monitor:
    for byte in text.encode():
        assert monitor.commit(byte), (text, chr(byte))
    return monitor


def decode(model: CausalModel, prompt: str = BUILDER, **options: object) -> list[Event]:
    new, seed, raw = options.pop("max_new_tokens", 24), options.pop("seed", 0), options.pop("raw", True)
    return list(run(model, "monitor-guided", prompt, params=options, max_new_tokens=new, seed=seed, raw=raw))  # type: ignore[arg-type]


def test_after_a_dot_exactly_six_tokens_spell_a_member(smollm: CausalModel) -> None:
    monitor = Monitor(BUILDER, smollm.vocabulary, context=SERVER)
    assert set(monitor.spot.offer.names) == NAMES  # type: ignore[union-attr]
    assert allowed(monitor) == {b"b", b"bu", b"build", b"w", b"wi", b"with"}
    assert int(smollm.vocabulary.flags(monitor.mask()).sum()) == 6
    assert not monitor.accepting


def test_after_a_whole_name_every_token_that_ends_it_may_follow(smollm: CausalModel) -> None:
    vocabulary = smollm.vocabulary
    monitor = Monitor(BUILDER, vocabulary, context=SERVER, trigger="reference")
    assert monitor.commit(vocabulary.bytes_of.index(b"build"))
    pieces = allowed(monitor)

    def is_text(piece: bytes) -> bool:
        return piece.decode("utf-8", "ignore").encode() == piece

    assert sum(is_text(piece) for piece in pieces) == 32_932
    unfinished = [piece for piece in pieces if not is_text(piece)]
    assert unfinished
    assert all(re.match(r"\W", piece.decode("utf-8", "ignore")) for piece in unfinished)
    assert has(monitor.mask(), min(vocabulary.ends))
    assert not pieces & {b"er", b"s", b"_", b"1", "é".encode()}


def test_the_names_left_shrink_token_by_token() -> None:
    monitor = write(Monitor(BUILDER, SMALL, context=SERVER), "with_")
    assert monitor.spot.offer is not None
    assert set(monitor.spot.offer.rests) == {b"ip", b"port"}
    assert allowed(monitor) == {b"i", b"p"}
    write(monitor, "i")
    assert allowed(monitor) == {b"p"}
    assert monitor.forced() == list(b"p")
    write(monitor, "p")
    assert b"(" in allowed(monitor)
    assert b"o" not in allowed(monitor)
    assert monitor.accepting


def test_a_token_may_finish_the_name_and_go_on() -> None:
    monitor = Monitor(BUILDER, SMALL, context=SERVER, trigger="reference")
    assert allowed(monitor) == {b"b", b"w", b"build", b"build().foo", b"with_", b"with_ip("}


def test_two_constraints_allow_what_both_allow(smollm: CausalModel) -> None:
    monitor = Monitor(BUILDER, smollm.vocabulary, context=SERVER)
    grammar = constraint_for("regex", r"(with|w[aeiou])[a-z_]*\(\)", smollm)
    joint = Joint([monitor, grammar])
    assert (joint.mask() == (monitor.mask() & grammar.mask())).all()
    assert allowed(joint) == {b"w", b"wi", b"with"}
    assert joint.commit(smollm.vocabulary.bytes_of.index(b"wi"))
    assert (joint.mask() == (monitor.mask() & grammar.mask())).all()
    assert allowed(joint) == {b"t", b"th"}


def test_a_token_that_jumps_over_the_dot_passes_as_published_and_is_caught_when_repaired() -> None:
    code = BUILDER.removesuffix(".")
    reference = Monitor(code, SMALL, context=SERVER, trigger="reference")
    repaired = Monitor(code, SMALL, context=SERVER, trigger="repaired")
    assert {b".foo", b".build", b"(a.b", b"._x"} <= allowed(reference)
    assert reference.commit(id_of(b".foo"))
    assert {b".build", b".build(", b".bui", b"."} <= allowed(repaired)
    assert not {b".foo", b"(a.b", b"._x", b"build().foo"} & allowed(repaired)
    assert not repaired.commit(id_of(b".foo"))
    assert repaired.commit(id_of(b".bui"))
    assert allowed(repaired) == {b"l"}
    before_dot = Monitor(BUILDER, SMALL, context=SERVER, trigger="repaired")
    assert allowed(before_dot) == {b"b", b"w", b"build", b"with_", b"with_ip("}


def test_a_jump_in_a_string_or_comment_is_none_of_its_business() -> None:
    for code in ("x = 'see b", "# see b", "x = b'", "y = 3"):
        assert b".foo" in allowed(Monitor(code, SMALL, context=SERVER))


@pytest.mark.parametrize("trigger", ["reference", "repaired", "watch"])
@pytest.mark.parametrize("code", ["# builder.", "'builder.", "x = 1.", '"""\nbuilder.', "from .", "x = ...", "f'{x}."])
def test_no_question_is_asked_in_comments_strings_and_numbers(trigger: monitor_guided.Trigger, code: str) -> None:
    counting = Counting()
    monitor = Monitor(code, SMALL, context=SERVER, trigger=trigger, asked=counting)
    assert monitor.spot.offer is None
    assert monitor.commit(ord("q"))
    assert counting.questions == []


def test_chained_calls_ask_again() -> None:
    counting = Counting()
    monitor = write(Monitor(BUILDER, SMALL, context=SERVER, asked=counting), "with_ip('a').with_port(1).build().")
    assert len(counting.questions) == 4
    assert monitor.spot.offer is not None
    assert set(monitor.spot.offer.names) == {"listen", "close"}
    assert [news.state for news in monitor.news()] == ["asked"]


def test_one_token_may_end_a_name_and_ask_for_the_next() -> None:
    monitor = write(Monitor(BUILDER, SMALL, context=SERVER), "build")
    assert monitor.commit(id_of(b"()."))
    assert [news.state for news in monitor.news()] == ["finished", "asked"]
    assert allowed(monitor) == {b"c", b"l"}


def test_what_the_model_has_written_is_known_to_the_analyser() -> None:
    monitor = write(Monitor("", SMALL), "class A:\n    def hop(self): ...\n    def jump(self): ...\na = A()\na.")
    assert allowed(monitor) == {b"h", b"j"}


def test_a_prompt_that_ends_inside_a_name_is_gone_on_with_when_repaired() -> None:
    assert allowed(Monitor(BUILDER + "with_", SMALL, context=SERVER)) == {b"i", b"p"}
    assert Monitor(BUILDER + "with_", SMALL, context=SERVER, trigger="reference").spot.offer is None


def test_private_names_are_offered_if_asked_for_or_typed_or_alone() -> None:
    context = "class A:\n    def _hide(self): ...\n    def show(self): ...\n"
    assert allowed(Monitor("A().", SMALL, context=context)) == {b"s"}
    assert b"_" in allowed(Monitor("A().", SMALL, context=context, private=True))
    typed = Monitor("A()._", SMALL, context=context)
    assert typed.spot.offer is not None
    assert b"hide" in typed.spot.offer.rests
    assert allowed(Monitor("A().show.", SMALL, context=context)) == {b"_"}


def test_letters_of_several_bytes_are_spelled_byte_by_byte() -> None:
    monitor = Monitor("A().", SMALL, context="class A:\n    größe = 1\n    grün = 2\n")
    write(monitor, "gr")
    assert allowed(monitor) == {"ö".encode()[:1]}, "ö and ü begin alike"
    assert monitor.commit("ö".encode()[0])
    assert allowed(monitor) == {"ö".encode()[1:], "ü".encode()[1:]}


def test_half_a_character_does_not_end_a_name_and_a_whole_one_does() -> None:
    monitor = write(Monitor(BUILDER, SMALL, context=SERVER), "build")
    assert "—".encode() in allowed(monitor)
    assert " —".encode()[:3] in allowed(monitor), "it begins with a space"
    assert "—".encode()[:1] not in allowed(monitor)


@pytest.mark.parametrize("trigger", ["reference", "repaired", "watch"])
def test_mask_and_single_tokens_agree_everywhere(trigger: monitor_guided.Trigger) -> None:
    for end in ("", "w", "with_", "build", "build()", "build().", "build() # x", "build().listen() + 'a"):
        monitor = Monitor(BUILDER.removesuffix(".") + "." + end, SMALL, context=SERVER, trigger=trigger)
        one_by_one = [token for token in range(len(SMALL)) if monitor.fork().allows(token)]
        assert SMALL.ids(monitor.mask()) == one_by_one, end
        assert [token for token in range(len(SMALL)) if monitor.fork().commit(token)] == one_by_one


def test_going_back_is_as_never_having_gone() -> None:
    rng = random.Random(0)
    monitor = Monitor(BUILDER, SMALL, context=SERVER)
    written: list[int] = []
    for _ in range(60):
        if written and rng.random() < 0.4:
            count = rng.randint(1, len(written))
            monitor.rollback(count)
            del written[-count:]
        else:
            choices = SMALL.ids(monitor.mask())
            likely = [id for id in choices if SMALL.bytes_of[id] in b"().abdilopruwh_t\n"] or choices
            token = rng.choice(likely)
            if token in SMALL.ends:
                continue
            twin = monitor.fork()
            assert monitor.commit(token)
            assert twin.spot == twin._spots[len(written)]
            written.append(token)
        fresh = Monitor(BUILDER, SMALL, context=SERVER)
        assert all(fresh.commit(token) for token in written)
        assert fresh.spot == monitor.spot or untimed_spot(fresh) == untimed_spot(monitor)
        assert (fresh.mask() == monitor.mask()).all()


def untimed_spot(monitor: Monitor) -> object:
    return monitor.spot._replace(news=tuple(news._replace(seconds=0.0) for news in monitor.spot.news))


def named(model: CausalModel, events: list[Event], prompt: str) -> list[tuple[str, str]]:
    """Every member in the text with the code before it, found by a regular expression: by no part of the monitor."""
    text = finished(events).text
    ends = finished(events).reason == "end of text"
    found = re.finditer(r"\.([A-Za-z_]\w*)" + ("" if ends else r"(?=\W)"), "." + text)
    return [(prompt + text[: max(0, match.start())], match[1]) for match in found]


def check_members(model: CausalModel, events: list[Event]) -> int:
    """Every identifier behind a dot is among what the analyser, asked anew, offers there. How many there were."""
    pairs = named(model, events, BUILDER)
    for before, name in pairs:
        code = SERVER + "\n" + without_imports(before if before.endswith(".") else before + ".", defined_names(SERVER))
        names = analyser().names(code).names
        assert not names or name in names, (before[-40:], name)
    return len(pairs)


CHAIN = r"[a-z_]{1,12}\([a-z]?\)(\.[a-z_]{1,12}\(\)){1,2}"


@pytest.mark.parametrize("trigger", ["reference", "repaired"])
def test_every_member_that_a_random_model_writes_was_offered(tiny_llama: CausalModel, trigger: str) -> None:
    seen = 0
    for seed in range(20):
        options = {"trigger": trigger, "temperature": 1.5, "constraint": "regex", "grammar": CHAIN}
        events = decode(tiny_llama, seed=seed, max_new_tokens=60, **options)
        seen += check_members(tiny_llama, events)
        assert not any(event.state == "finished" and event.count == 0 for event in only(events, Suggestions))
    assert seen >= 40


def test_every_member_that_a_language_model_writes_was_offered(smollm: CausalModel) -> None:
    for seed in range(3):
        events = decode(smollm, seed=seed, temperature=1.0, max_new_tokens=10)
        check_stream(smollm, events)
        assert check_members(smollm, events) >= 1


def test_without_the_monitor_the_model_invents_and_the_watcher_says_so(smollm: CausalModel) -> None:
    plain = list(run(smollm, "greedy", BUILDER, max_new_tokens=8, raw=True))
    watched = decode(smollm, trigger="watch", max_new_tokens=8)
    assert finished(watched).token_ids == finished(plain).token_ids
    last = next(event for event in only(watched, Suggestions) if event.state == "finished")
    name = re.match(r"\w+", finished(watched).text)
    assert name is not None
    assert name[0] not in NAMES
    assert (last.count, last.trigger.rpartition(".")[2]) == (0, name[0])
    assert all(mask.blocked_mass < 0.01 for mask in only(watched, Mask))
    guided = finished(decode(smollm, max_new_tokens=8)).text
    assert re.match(r"(build|with_ip|with_port)\b", guided)


def test_the_events_tell_the_story_with_the_models_own_numbers(smollm: CausalModel) -> None:
    events = decode(smollm, max_new_tokens=6)
    told = only(events, Suggestions)
    assert (told[0].state, told[0].position, told[0].count) == ("asked", 0, 3)
    assert told[0].trigger == "    builder."
    state = smollm.start()
    p = state.extend(smollm.encode(BUILDER, raw=True), last=True)[-1].softmax(-1)
    for one in told[0].suggestions:
        begins = [
            id for id, piece in enumerate(smollm.vocabulary.bytes_of) if piece and one.name.encode().startswith(piece)
        ]
        assert one.p == pytest.approx(float(p[torch.tensor(begins)].sum()), rel=1e-3)
    assert [one.p for one in told[0].suggestions] == sorted((one.p for one in told[0].suggestions), reverse=True)
    mask = only(events, Mask)[0]
    assert mask.allowed == 6
    assert events.index(told[0]) < events.index(mask)
    states = [event.state for event in told]
    assert states[: states.index("finished") + 1] == [
        "asked",
        *["narrowed"] * (states.index("finished") - 1),
        "finished",
    ]
    done = told[states.index("finished")]
    assert (done.count, done.suggestions[0].rest) == (1, "")
    for narrowed in told[1 : states.index("finished")]:
        assert all(one.name.startswith(narrowed.trigger.rpartition(".")[2]) for one in narrowed.suggestions)
        assert all(one.name.endswith(one.rest) for one in narrowed.suggestions)


def test_the_same_seed_gives_the_same_events(tiny_llama: CausalModel) -> None:
    def quiet(events: list[Event]) -> list[Event]:
        return [
            msgspec.structs.replace(event, seconds=0.0) if isinstance(event, Mask | Suggestions) else event
            for event in untimed(events)
        ]

    assert quiet(decode(tiny_llama, temperature=1.0)) == quiet(decode(tiny_llama, temperature=1.0))


def test_a_chat_template_is_taken_off_the_code(smollm: CausalModel) -> None:
    chat, raw = decode(smollm, raw=False, max_new_tokens=4), decode(smollm, raw=True, max_new_tokens=4)
    assert finished(chat).token_ids == finished(raw).token_ids
    assert any(isinstance(event, Note) and "chat template" in event.text for event in chat)
    assert not any(isinstance(event, Note) for event in raw)


def test_a_grammar_and_the_monitor_hold_together(smollm: CausalModel) -> None:
    events = decode(smollm, constraint="regex", grammar=r"with_[a-z]+\(\)\.build\(\)")
    assert finished(events).text in ("with_ip().build()", "with_port().build()")


@pytest.mark.parametrize("method", ["prompt-lookup", "token-recycling"])
def test_guessing_methods_keep_to_the_monitor(
    tiny_llama: CausalModel, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The monitor in the place of a grammar: as `Constraint` it is taken back, forked and asked out of order."""
    code = "b = ServerBuilder()\nb.build().close()\nb.build().close()\nb."
    plain = decode(tiny_llama, code, max_new_tokens=30)
    made = [Monitor(code, tiny_llama.vocabulary, context=SERVER)]
    monkeypatch.setattr(runner, "constraint_for", lambda *_, **__: made[0])
    params = {"constraint": "choices", "grammar": "x", "fallback": False}
    guessed = list(run(tiny_llama, method, code, params=params, max_new_tokens=30, raw=True))
    assert only(guessed, Draft)
    assert finished(guessed).token_ids == finished(plain).token_ids
    assert re.match(r"(build|with_ip|with_port)\b", finished(guessed).text)


def test_an_analyser_that_hangs_leaves_the_run_alive_and_a_note(
    smollm: CausalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = Analyser()
    assert hanging.warm_up()
    hanging.seconds = 0.01
    monkeypatch.setattr(monitor_guided, "analyser", lambda: hanging)
    context = SERVER + "\n".join(f"class C{n}(ServerBuilder):\n    x{n} = [{n}, '{n}']" for n in range(1200))
    try:
        events = decode(smollm, context=context, max_new_tokens=6)
        assert finished(events).totals.tokens == 6
        assert any(isinstance(event, Note) and "did not answer" in event.text for event in events)
        assert only(events, Suggestions)[0].state == "nothing known"
        assert hanging.restarts >= 1
    finally:
        hanging.close()


def test_where_nothing_is_known_it_goes_on_or_stops_as_told(smollm: CausalModel) -> None:
    prompt = "def f(thing):\n    return thing."
    free = decode(smollm, prompt, max_new_tokens=5)
    assert only(free, Suggestions)[0].state == "nothing known"
    assert finished(free).totals.tokens == 5
    stopped = decode(smollm, prompt, max_new_tokens=5, on_empty="stop")
    assert (finished(stopped).reason, finished(stopped).text) == ("dead end", "")


def test_a_run_branches_off_inside_a_name(smollm: CausalModel) -> None:
    whole = [placed.token.id for placed in committed(decode(smollm, max_new_tokens=8))]
    branch = list(run(smollm, "monitor-guided", BUILDER, prefix=whole[:1], max_new_tokens=7, raw=True))
    assert [placed.token.id for placed in committed(branch)] == whole


def test_imports_of_what_the_context_defines_are_hidden_from_the_analyser() -> None:
    assert defined_names("class A:\n    b = 1\nc = 2\nd: int = 3\nasync def e(): ...\nif f == 1: ...\n") == set("Acde")
    defined = frozenset({"A", "B"})
    code = "from x import A, B\n  from .y import (A)\nfrom x import A, C\nfrom x import A as B\nimport A\n"
    assert without_imports(code, defined) == "pass\n  pass\nfrom x import A, C\nfrom x import A as B\nimport A\n"


def test_the_beginnings_of_a_name_are_found_by_bisection_as_by_trying_all() -> None:
    spellings = Spellings(SMALL)
    for rest in (b"", b"b", b"build", b"buil", b"with_ip", b"zz", "größe".encode()):
        tried = [id for id, piece in enumerate(SMALL.bytes_of) if piece and monitor_guided.fits(piece, rest)]
        assert sorted(spellings.beginning(rest).tolist()) == tried


def test_hostile_context_is_code_like_any_other(smollm: CausalModel) -> None:
    for context in ("\x00" * 50, "class A(:\n" * 50, "'''", "((((" * 200, "\u202e<script>", "from x import *\n" * 100):
        events = decode(smollm, "x = 'a'\nx.", context=context, max_new_tokens=2)
        assert isinstance(events[0], Started)
        assert isinstance(events[-1], Finished)


def test_masks_of_a_large_vocabulary_take_no_time(smollm: CausalModel) -> None:
    monitor = Monitor(BUILDER, smollm.vocabulary, context=SERVER)
    spellings = monitor._spellings
    names = ["".join(letters) for letters in itertools.product("abcdef", repeat=3)]
    start = time.perf_counter()
    bits = smollm.vocabulary.bits(np.concatenate([spellings.beginning(name.encode()) for name in names]))
    assert time.perf_counter() - start < 0.5
    assert bits.any()

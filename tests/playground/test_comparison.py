"""A race with real methods on a tiny model, what its runs say about each other, and a comparison that is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import msgspec
import pytest

import engines
from engines.errors import BadParameter
from engines.events import (
    Candidates,
    Choice,
    Commit,
    Curve,
    Event,
    Finished,
    Placed,
    Started,
    Token,
)
from engines.models.causal import CausalModel
from playground.cli import main
from playground.comparison import Comparison, Contestant, Entry, Runs, lighter, race
from playground.kept_comparisons import KeptComparison, UnknownComparison, keep, kept, latest
from playground.setup import Setup
from playground.standings import Parting, Standing, law, related, standings
from playground.store import Store
from tests.playground.stored_runs import TOTALS, started

PROMPT = "the cat sat on the mat. the cat sat on the"
OWNER = "o" * 32


def setup(method: str = "greedy", **changes: object) -> Setup:
    return Setup(method=method, **{"prompt": PROMPT, "max_new_tokens": 12, "raw": True, **changes})  # type: ignore[arg-type]


def comparison(*setups: Setup, rounds: int = 2) -> Comparison:
    return Comparison("c1", tuple(map(Contestant.of, setups)), rounds)


def raced(model: CausalModel, asked: Comparison) -> Runs:
    runs = Runs(asked)
    for entry in race(asked, lambda one, name: one.begin(model)):
        runs.take(entry)
    return runs


def judged(runs: Runs) -> list[Standing]:
    return standings([streams for _, streams in runs.streams])


# The race


def test_rounds_alternate_so_that_nobody_always_goes_first(tiny_llama: CausalModel) -> None:
    asked = comparison(setup(), setup("prompt-lookup"), setup("token-recycling"), rounds=6)
    begun: list[tuple[str, str]] = []

    def start(one: Setup, name: str) -> Iterator[Event]:
        begun.append((one.method, name))
        return iter([started()])

    list(race(asked, start))
    firsts = [begun[3 * round][0] for round in range(6)]
    assert sorted(firsts) == sorted(["greedy", "prompt-lookup", "token-recycling"] * 2)
    assert begun[-1][1] == "compare c1, round 6"


def test_progress_says_who_is_writing_and_what_there_is(tiny_llama: CausalModel) -> None:
    asked = comparison(setup(), setup("prompt-lookup"))
    seen = [(entry.contestant, entry.round, len(entry.events), entry.whole) for entry in race_of(tiny_llama, asked)]
    assert {(contestant, round) for contestant, round, _, _ in seen} == {(0, 0), (1, 0), (0, 1), (1, 1)}
    assert [count for contestant, round, count, _ in seen if (contestant, round) == (1, 0)] == list(
        range(1, 1 + sum((contestant, round) == (1, 0) for contestant, round, _, _ in seen))
    )
    assert sum(whole for *_, whole in seen) == 4


def race_of(model: CausalModel, asked: Comparison) -> Iterator[Entry]:
    return race(asked, lambda one, name: one.begin(model))


def test_breaking_off_closes_the_run_under_way_and_begins_no_other(tiny_llama: CausalModel) -> None:
    begun: list[Closable] = []

    def start(one: Setup, name: str) -> Iterator[Event]:
        begun.append(Closable(one.begin(tiny_llama)))
        return begun[-1]

    with closing(race(comparison(setup(), setup("sampling")), start)) as racing:
        list(islice(racing, 5))
    assert len(begun) == 1
    assert begun[0].closed


class Closable(Iterator[Event]):
    def __init__(self, events: Iterator[Event]) -> None:
        self.events, self.closed = events, False

    def __next__(self) -> Event:
        return next(self.events)

    def close(self) -> None:
        self.closed = True


def test_every_run_is_an_ordinary_stored_one(tiny_llama: CausalModel, store: Store) -> None:
    asked, runs = comparison(setup(), setup("prompt-lookup")), None
    runs = Runs(asked)
    for entry in race(asked, lambda one, name: store.recording(one.begin(tiny_llama), owner=OWNER, name=name)):
        runs.take(entry)
    listed = store.runs(OWNER)
    assert {run.id for run in listed} == {id for ids in runs.ids for id in ids}
    assert {run.status for run in listed} == {"finished"}
    assert store.run(runs.ids[1][1]).name == "compare c1, round 2"
    assert store.run(runs.ids[1][1]).method == "prompt-lookup"


@pytest.mark.parametrize("many", [1, 5])
def test_two_to_four_contestants(many: int) -> None:
    with pytest.raises(BadParameter, match=f"2 to 4 contestants, not {many}"):
        comparison(*[setup()] * many)


@pytest.mark.parametrize("rounds", [0, 10, True])
def test_one_to_nine_rounds(rounds: int) -> None:
    with pytest.raises(BadParameter, match="1 to 9 rounds"):
        comparison(setup(), setup(), rounds=rounds)


@pytest.mark.parametrize("other", [{"prompt": "something else"}, {"seed": 1}])
def test_all_decode_the_same_prompt_with_the_same_seed(other: dict[str, object]) -> None:
    with pytest.raises(BadParameter, match="same prompt with the same seed"):
        comparison(setup(), setup(**other))  # type: ignore[arg-type]


def test_a_title_says_what_was_chosen_and_not_what_is_usual() -> None:
    assert Contestant.of(setup("prompt-lookup", params={"guesses": "4", "which": "latest"})).title == (
        "Prompt lookup (guesses 4)"
    )
    with pytest.raises(BadParameter, match="guesses"):
        Contestant.of(setup("prompt-lookup", params={"guesses": -1}))


def test_later_rounds_are_kept_without_what_pictures_of_several_runs_do_not_need(tiny_llama: CausalModel) -> None:
    runs = raced(tiny_llama, comparison(setup(), setup("prompt-lookup", params={"guesses": 4})))
    first, second = runs.entries[0]
    assert any(isinstance(event, Candidates) for event in first.events)
    assert not any(isinstance(event, Candidates) for event in second.events)
    assert lighter(first.events)[-1] == first.events[-1]
    assert first.whole
    assert second.whole


# What the runs say about each other


def test_lossless_methods_give_the_same_output_and_numbers(tiny_llama: CausalModel) -> None:
    greedy, lookup = judged(raced(tiny_llama, comparison(setup(), setup("prompt-lookup", params={"guesses": 4}))))
    assert (greedy.relation, greedy.speed_up, greedy.rounds) == ("baseline", None, 2)
    assert (lookup.relation, lookup.parting) == ("same", None)
    assert greedy.totals is not None
    assert lookup.totals is not None
    assert lookup.shared == lookup.totals.tokens == greedy.totals.tokens
    assert lookup.totals.target_passes <= greedy.totals.target_passes == greedy.totals.tokens


def test_sampling_differs_by_purpose(tiny_llama: CausalModel) -> None:
    _, sampling = judged(raced(tiny_llama, comparison(setup(), setup("sampling", params={"temperature": 3.0}))))
    assert sampling.relation == "purpose"
    assert sampling.parting is not None
    assert sampling.parting.ours_p is not None


def test_the_same_distribution_gives_other_draws(tiny_llama: CausalModel) -> None:
    hot = {"temperature": 3.0}
    runs = raced(tiny_llama, comparison(setup("sampling", params=hot), setup("prompt-lookup", params=hot)))
    assert judged(runs)[1].relation in ("draws", "same")
    headers = [streams[0][0] for _, streams in runs.streams]
    assert law(headers[0]) == law(headers[1])  # type: ignore[arg-type]


def test_sampling_at_temperature_zero_owes_greedys_tokens(tiny_llama: CausalModel) -> None:
    _, cold = judged(raced(tiny_llama, comparison(setup(), setup("sampling", params={"temperature": 0.0, "top_k": 5}))))
    assert cold.relation == "same"


def run(*words: str, p: tuple[float, float] = (0.6, 0.3), seconds: float = 1.0, **header: object) -> list[Event]:
    """A run by hand: at every place the model's two best tokens are "a" and "b", with these probabilities."""
    a, b = Token(1, "a"), Token(2, "b")
    known = {"a": Placed(a, "sampled", raw=p[0]), "b": Placed(b, "sampled", raw=p[1])}
    events: list[Event] = [started(**{"params": {}, **header})]
    for place, word in enumerate(words):
        events.append(Candidates(position=place, raw=(Choice(a, p[0]), Choice(b, p[1])), entropy=1.0))
        events.append(Commit(position=place, step=place, tokens=(known.get(word, Placed(Token(9, word), "sampled")),)))
    speed = len(words) / seconds
    totals = msgspec.structs.replace(TOTALS, tokens=len(words), seconds=seconds, tokens_per_second=speed)
    return [*events, Finished(reason="token limit", text="", token_ids=(), totals=totals)]


def test_nearly_equal_logits_are_a_float_tie() -> None:
    relation, shared, parting = related(run("a", "b", p=(0.500001, 0.5)), run("a", "a", p=(0.500001, 0.5)))
    assert (relation, shared) == ("tie", 1)
    assert parting is not None
    assert (parting.ours, parting.theirs) == (Token(2, "b"), Token(1, "a"))
    assert (parting.ours_p, parting.theirs_p) == (0.5, 0.500001)
    assert parting.gap == pytest.approx(2e-6)


def test_a_wrong_token_is_no_tie() -> None:
    relation, _, parting = related(run("a", "b"), run("a", "a"))
    assert relation == "broken"
    assert parting is not None
    assert parting.gap == pytest.approx(0.693, abs=1e-3)


def test_a_token_that_was_not_among_the_best_two_is_no_tie() -> None:
    near = (0.500001, 0.5)
    relation, _, parting = related(run("a", "c", p=near), run("a", "a", p=near))
    assert (relation, parting and parting.gap) == ("broken", None)


def test_a_method_that_makes_no_promise_differs_by_purpose() -> None:
    assert related(run("b", lossless=False, method="beam-search"), run("a"))[0] == "purpose"


def test_an_output_that_ended_earlier_differs_there() -> None:
    relation, shared, parting = related(run("a"), run("a", "b"))
    assert (relation, shared) == ("broken", 1)
    assert parting is not None
    assert (parting.ours, parting.theirs, parting.tie) == (None, Token(2, "b"), False)


def test_a_stopped_run_is_not_called_different() -> None:
    assert related(run("a", "b")[:2], run("a", "b"))[0] == "unknown"
    assert related(run("a", "b")[:-1], run("a", "b", "b"))[0] == "unknown"


def test_a_speed_up_is_a_ratio_within_each_round_and_may_be_below_one() -> None:
    base = [run("a", "a", seconds=seconds) for seconds in (1.0, 2.0, 4.0)]
    mine = [run("a", "a", seconds=seconds) for seconds in (2.0, 1.0, 5.0)]
    _, other = standings([base, mine])
    assert other.speed_up is not None
    assert (other.speed_up.minimum, other.speed_up.median, other.speed_up.maximum) == (0.5, 0.8, 2.0)
    assert other.tokens_per_second is not None
    assert other.tokens_per_second.median == 1.0


def test_a_round_that_one_did_not_finish_gives_no_speed_up() -> None:
    _, other = standings([[run("a")], [run("a")[:-1]]])
    assert (other.speed_up, other.totals, other.rounds) == (None, None, 0)
    _, other = standings([[run("a"), run("a")[:-1]], [run("a", seconds=0.5), run("a")]])
    assert other.speed_up is not None
    assert other.speed_up.maximum == 2.0


def test_a_law_leaves_out_what_changes_nothing() -> None:
    def of(method: str, lossless: bool = True, **params: object) -> object:
        header = started(method=method, lossless=lossless, params=params)
        assert isinstance(header, Started)
        return law(header)

    assert of("greedy") == of("sampling", lossless=False, temperature=0.0, top_k=3) == (("temperature", 0.0),)
    assert of("token-recycling", temperature=0.0, repetition_penalty=1.3) != of("greedy")
    assert of("sampling", lossless=False, temperature=1.0, top_k=3) != of("sampling", lossless=False, temperature=1.0)
    assert of("beam-search", lossless=False) is None


def test_a_parting_without_a_gap_is_no_tie() -> None:
    assert not Parting(0, None, None, None, None, None).tie


# Kept


def test_a_comparison_is_kept_whole(store: Store) -> None:
    asked = comparison(setup(), setup("prompt-lookup", params={"guesses": 4}))
    curve = Curve(name="t", x_name="new tokens", y_name="seconds", x=(1.0, 2.0), y=(0.1, 0.2))
    assert keep(store, OWNER, asked, [["r1", "r2"], ["r3", "r4"]], curve)
    found = kept(store, "c1")
    assert (found.comparison, found.runs, found.curve) == (asked, [["r1", "r2"], ["r3", "r4"]], curve)
    assert isinstance(found, KeptComparison)
    with pytest.raises(UnknownComparison, match="no comparison called 'nope'"):
        kept(store, "nope")


def test_only_their_owner_is_told_of_comparisons(store: Store) -> None:
    keep(store, OWNER, comparison(setup(), setup("sampling")), [[], []], None)
    (mine,) = latest(store, OWNER)
    assert (mine.id, mine.titles, mine.prompt) == ("c1", ["Greedy", "Sampling"], PROMPT)
    assert latest(store, "p" * 32) == latest(store, "") == []


def test_without_a_database_nothing_is_kept_and_nothing_breaks(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Store.open(tmp_path / "file" / "runs.sqlite") as broken:
        assert not keep(broken, OWNER, comparison(setup(), setup()), [[], []], None)
        assert latest(broken, OWNER) == []


# The command line


def test_the_command_prints_a_table_and_keeps_the_runs(
    tiny_llama: CausalModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DECODING_PLAYGROUND_DATA", str(tmp_path))
    monkeypatch.setattr(engines, "load", lambda *_, **__: tiny_llama)
    asked = ["compare", "--method", "greedy", "--method", "prompt-lookup:guesses=4,which=latest"]
    asked += ["--prompt", PROMPT, "--raw", "--rounds", "2", "--max-new-tokens", "8"]
    assert main(asked) == 0
    said = capsys.readouterr()
    assert [line.split("  ")[0] for line in said.out.splitlines()[1:3]] == ["Greedy", "Prompt lookup (guesses 4)"]
    assert "baseline" in said.out
    assert "the same output as the baseline" in said.err
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["relation"] for one in found["contestants"]] == ["baseline", "same"]
    with Store.open() as store:
        assert len(store.runs()) == 8
        assert kept(store, found["comparison"]).runs == [one["runs"] for one in found["contestants"]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "greedy"], "2 to 4 times"),
        (["--method", "greedy", "--method", "nonsense"], "no method called 'nonsense'"),
        (["--method", "greedy", "--method", "sampling:hot"], "name=value, not 'hot'"),
        (["--method", "greedy", "--method", "sampling:temperature=-1"], "temperature cannot be"),
        (["--method", "greedy", "--method", "greedy", "--rounds", "10"], "1 to 9"),
    ],
)
def test_a_bad_request_is_refused_in_one_line_before_anything_is_loaded(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "load", lambda *_, **__: pytest.fail("loaded"))
    assert main(["compare", *arguments, "--prompt", "x"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert words in said.err

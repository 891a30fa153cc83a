"""What one person, and all together, may take: the numbers, who may come in, who waits, and what is said."""

from __future__ import annotations

import gc
import threading
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import pytest

from engines.errors import BadParameter, DecodingError
from engines.events import Forward
from engines.models.causal import CausalModel
from playground.keeping import make_room
from playground.limits import LimitReached, Limits, limits_table, variable
from playground.places import Full, Places
from playground.setup import Params, Setup
from playground.store import Store
from playground.turnstile import Stopped
from playground.ui.house import House
from playground.visitors import Visitors, cache_bytes
from tests.playground.stored_runs import whole_run

ME, YOU = "m" * 32, "y" * 32


def short(prompt: str = "abc", **more: object) -> Setup:
    return Setup(method="greedy", prompt=prompt, raw=True, **({"max_new_tokens": 4} | more))  # type: ignore[arg-type]


@pytest.fixture
def house(store: Store, tiny_llama: CausalModel) -> House:
    return limited(store, tiny_llama)


def limited(store: Store, model: CausalModel, **limits: int) -> House:
    house = House(store, Limits(**limits))
    house.resident.model = model
    return house


class TestTheNumbers:
    def test_are_generous_at_home_and_strict_on_a_space(self) -> None:
        home, space = Limits.from_environment({}), Limits.from_environment({"SPACE_ID": "somebody/playground"})
        assert (home.seconds, space.seconds) == (0, 120)
        for name in ("prompt_characters", "new_tokens", "runs_at_once", "people_at_once", "shelf_megabytes"):
            assert 0 < getattr(space, name) < getattr(home, name), name

    def test_come_from_the_environment(self) -> None:
        given = {variable(one.name): str(number) for number, one in enumerate(fields(Limits), start=1)}
        limits = Limits.from_environment(given | {"SPACE_ID": "x/y"})
        assert [getattr(limits, one.name) for one in fields(Limits)] == list(range(1, len(fields(Limits)) + 1))

    @pytest.mark.parametrize("value", ["-1", "many", "1.5", "1e3", "²"])
    def test_must_be_whole(self, value: str) -> None:
        with pytest.raises(BadParameter, match="DECODING_PLAYGROUND_NEW_TOKENS must be a whole number"):
            Limits.from_environment({"DECODING_PLAYGROUND_NEW_TOKENS": value})

    def test_have_a_table(self) -> None:
        assert all(f"| `{variable(one.name)}` |" in limits_table() for one in fields(Limits))


class TestARun:
    @pytest.mark.parametrize(
        ("limits", "asked", "says"),
        [
            ({"prompt_characters": 10}, {"prompt": "a" * 11}, "11 characters long, and this server reads at most 10"),
            ({"new_tokens": 3}, {}, "at most 3"),
            ({"seconds": 5}, {"time_limit": 6.0}, "at most 5"),
            ({"cache_megabytes": 1}, {"prompt": "a" * 400, "max_new_tokens": 100}, "this server has 1 MB"),
        ],
    )
    def test_that_asks_for_too_much_is_refused_with_the_limit(
        self,
        store: Store,
        tiny_llama: CausalModel,
        limits: dict[str, int],
        asked: dict[str, object],
        says: str,
    ) -> None:
        setup = short(**asked)  # type: ignore[arg-type]
        if "cache_megabytes" in limits:
            setup = Setup(method="beam-search", prompt=setup.prompt, raw=True, params={"num_beams": 16})
        house = limited(store, tiny_llama, **limits)
        with pytest.raises(LimitReached, match=says):
            house.record(setup, owner=ME)
        assert (house.visitors.cached, house.places.taken, store.runs(ME)) == (0, 0, [])

    def test_without_a_time_limit_gets_the_servers(self, store: Store, tiny_llama: CausalModel) -> None:
        with closing(limited(store, tiny_llama, seconds=7).record(short(), owner=ME)) as recording:
            assert getattr(next(recording), "time_limit") == 7  # noqa: B009

    def test_beyond_those_at_once_is_refused_until_one_has_ended(self, store: Store, tiny_llama: CausalModel) -> None:
        house = limited(store, tiny_llama, runs_at_once=2)
        first, second = (house.record(short(), owner=ME) for _ in range(2))
        next(first)
        with pytest.raises(LimitReached, match="allows 2 at once"):
            house.record(short(), owner=ME)
        with closing(house.record(short(), owner=YOU)) as other:
            next(other)
        first.close()
        with closing(house.record(short(), owner=ME)) as third:
            assert len(list(third)) > 4
        second.close()

    def test_beyond_those_of_a_minute_is_told_when(self) -> None:
        now = 100.0
        visitors = Visitors(Limits(requests_per_minute=3), lambda: now)
        for _ in range(3):
            visitors.begin(ME, 0, 1).end()
            now += 10
        with pytest.raises(LimitReached, match="Try again in 30 s") as refused:
            visitors.begin(ME, 0, 1)
        assert refused.value.wait == 30
        visitors.begin(YOU, 0, 1).end()
        now += 30
        visitors.begin(ME, 0, 1).end()

    def test_is_refused_while_others_fill_the_memory(self, tiny_llama: CausalModel) -> None:
        visitors = Visitors(Limits())
        first = visitors.begin(ME, 60, 100)
        with pytest.raises(LimitReached, match="Other runs fill this server's memory"):
            visitors.begin(YOU, 60, 100)
        first.end()
        first.end()
        assert visitors.begin(YOU, 60, 100).bytes == visitors.cached == 60

    def test_never_caches_more_than_was_foreseen(self, tiny_llama: CausalModel) -> None:
        per_token = 2 * 2 * 2 * 16 * 4  # keys and values, layers, key-value heads, numbers per head, bytes per number
        cases: tuple[tuple[str, Params], ...] = (
            ("greedy", {}),
            ("beam-search", {"num_beams": 3}),
            ("diverse-beam-search", {}),
            ("best-of-n", {"n": 5}),
        )
        for method, params in cases:
            setup = Setup(method=method, prompt="some words", params=params, max_new_tokens=8)
            passes = [event for event in setup.begin(tiny_llama) if isinstance(event, Forward)]
            most = max(event.batch * (event.cached + event.query) for event in passes) * per_token
            assert most <= cache_bytes(tiny_llama, setup) <= most * 20, method

    @pytest.mark.parametrize("ending", ["read", "closed", "dropped", "failed", "stopped"])
    def test_gives_everything_back_however_it_ends(self, house: House, ending: str) -> None:
        stop = threading.Event()
        recording = house.record(short(max_new_tokens=20), owner=ME, stop=stop)
        next(recording)
        assert house.visitors.cached > 0
        assert (house.places.taken, house.turnstile.running) == (1, 1)
        match ending:
            case "read":
                list(recording)
            case "closed":
                recording.close()
            case "dropped":
                del recording
                gc.collect()
            case "failed":
                with pytest.raises(RuntimeError):
                    recording._events._events.throw(RuntimeError)  # type: ignore[attr-defined]
                recording.close()
            case "stopped":
                stop.set()
                with pytest.raises(Stopped):
                    list(recording)
        assert (house.visitors.cached, house.places.taken, house.turnstile.running) == (0, 0, 0)
        (kept,) = house.store.runs(ME)
        assert kept.status == ("finished" if ending == "read" else "stopped")

    def test_stops_in_the_middle_of_its_prompt(self, house: House) -> None:
        stop = threading.Event()
        recording = house.record(short("a" * 500, max_new_tokens=4), owner=ME, stop=stop)
        first = next(event for event in recording if isinstance(event, Forward))
        stop.set()
        with pytest.raises(Stopped):
            next(recording)
        assert first.query == 256, "a piece of the prompt that takes less than a second"
        assert house.store.runs(ME)[0].status == "stopped"

    def test_that_is_never_read_leaves_no_trace(self, house: House) -> None:
        house.record(short(), owner=ME)
        gc.collect()
        assert (house.visitors.cached, house.places.taken, house.turnstile.running) == (0, 0, 0)


class TestPlaces:
    def test_go_to_whoever_came_first(self) -> None:
        places = Places(most=1)
        inside, second, third = places.take("a"), places.take("b"), places.take("c")
        assert [next(second.wait()), next(third.wait())] == [0, 1]
        assert (places.ahead("c"), places.ahead("a")) == (1, None)
        inside.leave()
        assert (list(second.wait()), next(third.wait())) == ([], 0)
        assert (places.taken, places.waiting) == (1, 1)

    def test_are_shared_by_the_runs_of_one_person(self) -> None:
        places = Places(most=1)
        first, other, again = places.take("a"), places.take("b"), places.take("a")
        assert (again.granted, other.granted) == (True, False)
        first.leave()
        assert not other.granted
        again.leave()
        assert other.granted

    def test_waiting_ends_with_stop_and_leaves_the_line(self) -> None:
        places, stop = Places(most=1), threading.Event()
        with places.take("a"):
            with places.take("b") as place:
                for _ in place.wait(stop):
                    stop.set()
                assert not place.granted
            assert places.waiting == 0
        assert places.taken == 0

    def test_the_line_has_an_end(self) -> None:
        places = Places(most=1, line=2)
        held = [places.take(name) for name in "abc"]
        with pytest.raises(Full, match="1 people are decoding and 2 are waiting"):
            places.take("d")
        held[1].leave()
        assert places.take("d").ahead == 1

    def test_many_come_and_go(self) -> None:
        places, inside, most = Places(most=3), [], []

        def visit(number: int) -> None:
            with places.take(number % 20) as place:
                for _ in place.wait():
                    pass
                inside.append(number % 20)
                most.append(len(set(inside)))
                inside.remove(number % 20)

        threads = [threading.Thread(target=visit, args=(number,)) for number in range(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert (places.taken, places.waiting, len(most)) == (0, 0, 60)
        assert max(most) <= 3

    def test_a_run_waits_for_one(self, store: Store, tiny_llama: CausalModel) -> None:
        house = limited(store, tiny_llama, people_at_once=1)
        first, second = house.record(short(), owner=ME), house.record(short(), owner=YOU)
        got: list[int] = []
        reader = threading.Thread(target=lambda: got.append(len(list(second))))
        reader.start()
        reader.join(0.3)
        assert got == []
        list(first)
        reader.join(5)
        assert len(got) == 1


class TestKeeping:
    def kept(self, store: Store, owner: str, many: int) -> list[str]:
        ids = []
        for _ in range(many):
            with store.recording(iter(whole_run()), owner=owner) as recording:
                list(recording)
            ids.append(recording.run_id or "")
        return ids

    def test_the_oldest_without_a_star_make_room(self, store: Store) -> None:
        others = self.kept(store, YOU, 3)
        ids = self.kept(store, ME, 5)
        store.star(ME, [ids[0]], True)
        assert sorted(make_room(store, Limits(stored_runs=4), ME)) == sorted(ids[1:3])
        assert {run.id for run in store.runs(ME)} == {ids[0], *ids[3:]}
        assert {run.id for run in store.runs(YOU)} == set(others)
        assert make_room(store, Limits(stored_runs=4), ME) == []

    def test_sizes_count_too(self, store: Store) -> None:
        ids = self.kept(store, ME, 4)
        make_room(store, Limits(stored_megabytes=10), ME)
        store.write(lambda db: db.execute("UPDATE runs SET bytes = 300000"))
        store.star(ME, [ids[3]], True)
        assert make_room(store, Limits(stored_megabytes=1), ME) == [ids[0]]
        assert make_room(store, Limits(stored_megabytes=1), ME) == []

    def test_a_run_is_counted_as_large_as_it_is(self, store: Store) -> None:
        (id,) = self.kept(store, ME, 1)
        make_room(store, Limits(stored_megabytes=1), ME)
        ((size,),) = [tuple(row.values()) for row in store.read("SELECT bytes FROM runs WHERE id = ?", [id])]
        bodies = [row["body"] for row in store.read("SELECT body FROM events WHERE run = ?", [id])]
        assert size == sum(map(len, bodies)) > 100

    def test_stars_are_kept_and_said_to_be_too_many(self, store: Store) -> None:
        ids = self.kept(store, ME, 2)
        store.star(ME, ids, True)
        with pytest.raises(LimitReached, match="keeps 2 runs for one person, and yours all have a star"):
            make_room(store, Limits(stored_runs=2), ME)

    def test_the_page_is_told(self, store: Store, tiny_llama: CausalModel) -> None:
        house = limited(store, tiny_llama, stored_runs=2)
        for _ in range(4):
            list(house.record(short(), owner=ME))
        assert len(store.runs(ME)) == 2
        assert (house.made_room(ME), house.made_room(ME)) == (2, 0)

    def test_a_database_that_cannot_be_read_refuses_nobody(self, tmp_path: Path, tiny_llama: CausalModel) -> None:
        (tmp_path / "broken.sqlite").write_bytes(b"not a database" * 100)
        with Store.open(tmp_path / "broken.sqlite") as store:
            assert len(list(limited(store, tiny_llama, stored_runs=1).record(short(), owner=ME))) > 4


def test_the_shelf_holds_so_many_megabytes(store: Store) -> None:
    house = House(store, Limits(shelf_megabytes=1))
    growing: list[object] = []
    house.shelf.put(growing, "old")  # type: ignore[arg-type]
    growing += whole_run() * 100
    house.shelf.put(whole_run(), "new")
    assert house.shelf.events("new")
    with pytest.raises(DecodingError):
        house.shelf.events("old")


def test_every_page_can_be_told_where_it_stands(store: Store, tiny_llama: CausalModel) -> None:
    house = limited(store, tiny_llama, people_at_once=2)

    def chip(page: str) -> str:
        return str(house.status({"page": page})["people"]).partition(", ")[2]

    house.stopper("page", ME)
    assert chip("page") == "nobody running"
    mine, yours = house.record(short(), owner=ME), house.record(short(), owner=YOU)
    next(mine)
    assert chip("page") == "1 run in progress"
    next(yours)
    assert chip("page") == "2 runs in progress, half of the machine is yours"
    assert chip("other page") == "2 runs in progress"
    with house.places.take("x" * 32):
        house.stopper("third", "x" * 32)
        assert str(house.status({"page": "third"})["people"]) == "you are number 1 in line, 2 runs in progress"
    mine.close()
    yours.close()


def test_a_run_may_not_load_a_second_model_to_guess(smollm: CausalModel) -> None:
    limits = Limits()
    for draft in ("auto", "trained", "early exit", smollm.name):
        limits.check_draft(Setup(method="speculative-sampling", prompt="x", params={"draft": draft}))
    limits.check_draft(Setup(method="greedy", prompt="x"))
    for draft in ("someone/huge", "../x", ""):
        with pytest.raises(LimitReached, match="no second model"):
            limits.check_draft(Setup(method="speculative-sampling", prompt="x", params={"draft": draft}))

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event as Flag

import pytest

from engines.errors import BadParameter, ModelUnavailable, UnknownMethod
from engines.models.causal import CausalModel
from playground import cli, sweep_report
from playground.executors import InProcess
from playground.limits import LimitReached
from playground.prompt_set import Asked, PromptSet, pasted
from playground.recording import Recording
from playground.setup import Setup
from playground.store import Store
from playground.sweep import (
    MOST_RUNS,
    BadPlan,
    Busy,
    OtherModel,
    Plan,
    Progress,
    UnknownSweep,
    begin,
    delete,
    drive,
    plan,
    sweep,
    sweeps,
    try_again,
)

ROOT = Path(__file__).resolve().parents[2]
OWNER = "somebody"
METHODS = [("greedy", {}), ("prompt-lookup", {"guesses": 3})]


def small(text: str = "abcabcabc\nxyxyxy", methods: object = METHODS, **more: object) -> Plan:
    return plan(pasted(text), methods, max_new_tokens=6, raw=True, **more)  # type: ignore[arg-type]


def begun(store: Store, made: Plan) -> str:
    return begin(store, OWNER, made, model="tiny-llama", precision="float32")


@pytest.fixture
def record(store: Store, tiny_llama: CausalModel) -> Callable[[Setup], Recording]:
    return lambda setup: store.recording(setup.begin(tiny_llama), owner=OWNER)


def work(store: Store, id: str, record: Callable[[Setup], Recording], stop: Flag | None = None) -> list[Progress]:
    return list(drive(store, id, OWNER, InProcess(record), stop))


# The plan


def test_every_row_has_all_methods_and_begins_with_another_one() -> None:
    order = list(small(seeds=(0, 5)).order())
    assert order == [
        (0, 0, 0), (0, 0, 1),
        (0, 1, 1), (0, 1, 0),
        (5, 0, 0), (5, 0, 1),
        (5, 1, 1), (5, 1, 0),
    ]  # fmt: skip


def test_each_method_is_as_often_in_each_place() -> None:
    three = [("greedy", {}), ("prompt-lookup", {}), ("copyspec", {})]
    order = [contender for *_, contender in small("a\nb\nc\nd\ne\nf", three).order()]
    assert [sorted(order[place::3]) for place in range(3)] == [[0, 0, 1, 1, 2, 2]] * 3


def test_a_label_says_what_differs_from_the_defaults() -> None:
    assert [one.label for one in small().contenders] == ["Greedy", "Prompt lookup guesses=3"]


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"methods": []}, BadPlan, "at least one method"),
        ({"methods": [("greedy", {})] * 2}, BadPlan, "Greedy is there twice"),
        ({"methods": [("greedi", {})]}, UnknownMethod, "greedy"),
        ({"methods": [("prompt-lookup", {"guesses": "many"})]}, BadParameter, "guesses"),
        ({"seeds": ()}, BadPlan, "at least one seed"),
        ({"seeds": (-1,)}, BadParameter, "seed"),
        ({"seeds": range(17)}, BadPlan, "17 seeds are too many"),
    ],
)
def test_what_cannot_be_swept_is_refused(arguments: dict[str, object], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        small(**arguments)


def test_a_sweep_has_an_end() -> None:
    many = PromptSet("many", tuple(Asked(str(n), "x") for n in range(400)))
    with pytest.raises(BadPlan, match=f"at most {MOST_RUNS:,}"):
        plan(many, METHODS, range(16))


# The work


def test_a_sweep_makes_ordinary_runs_and_reports_them(store: Store, record: Callable[[Setup], Recording]) -> None:
    id = begun(store, small(seeds=(0, 1)))
    steps = work(store, id, record)
    assert (steps[0].done, steps[-1].done, steps[-1].total) == (0, 8, 8)
    assert sum(step.finished for step in steps) == 8
    whole = sweep_report.report(store, id)
    assert [store.run(one.run).status for one in whole.results] == ["finished"] * 8
    assert {store.run(one.run).owner for one in whole.results} == {OWNER}
    greedy, guessing = whole.lines
    assert (greedy.done, greedy.per_pass, greedy.speed_up, greedy.compared) == (4, 1.0, None, 0)
    assert (guessing.done, guessing.same, guessing.compared) == (4, 4, 4)
    assert guessing.per_pass is not None
    assert guessing.per_pass >= 1
    assert guessing.speed_up is not None
    assert guessing.speed_up.low <= guessing.speed_up.median <= guessing.speed_up.high


def test_speed_ups_are_paired_by_prompt_and_seed(store: Store, record: Callable[[Setup], Recording]) -> None:
    id = begun(store, small())
    work(store, id, record)
    results = sweep_report.report(store, id).results
    speed = {(one.prompt, one.contender): one.totals.tokens_per_second for one in results if one.totals}
    for one in results:
        assert one.speed_up == pytest.approx(speed[one.prompt, one.contender] / speed[one.prompt, 0])


def test_what_was_paused_goes_on_where_it_was(store: Store, record: Callable[[Setup], Recording]) -> None:
    id = begun(store, small())
    stop = Flag()
    for step in drive(store, id, OWNER, InProcess(record), stop):
        if step.done == 1 and step.tokens == 2:
            stop.set()
    paused = sweep(store, id)
    assert (paused.done, paused.left, paused.at_work) == (1, 3, False)
    assert sorted(run.status for run in store.runs(OWNER)) == ["finished", "stopped"]
    first = {one.run for one in sweep_report.report(store, id).results if one.run}
    assert work(store, id, record)[-1].done == 4
    again = sweep_report.report(store, id).results
    assert first < {one.run for one in again}
    assert work(store, id, record)[-1].done == 4


def test_a_closed_page_is_a_pause(store: Store, record: Callable[[Setup], Recording]) -> None:
    id = begun(store, small())
    steps = drive(store, id, OWNER, InProcess(record))
    next(step for step in steps if step.tokens == 3)
    steps.close()
    assert not sweep(store, id).at_work
    assert work(store, id, record)[-1].done == 4


def test_a_failed_run_keeps_its_error_and_the_next_begins(store: Store, record: Callable[[Setup], Recording]) -> None:
    id = begun(store, small("abcabc\n" + "x" * 600))
    last = work(store, id, record)[-1]
    assert (last.done, last.failed) == (2, 2)
    errors = [one for one in sweep_report.report(store, id).results if one.error]
    assert {one.prompt for one in errors} == {1}
    assert "600 tokens long" in errors[0].error
    assert work(store, id, record)[-1].failed == 2
    try_again(store, OWNER, id)
    assert sweep(store, id).left == 2


def test_a_model_that_is_gone_pauses_instead_of_failing_everything(store: Store) -> None:
    def gone(setup: Setup) -> Recording:
        raise ModelUnavailable("No model is loaded.")

    id = begun(store, small())
    with pytest.raises(ModelUnavailable):
        work(store, id, gone)
    assert (sweep(store, id).left, sweep(store, id).at_work) == (4, False)


def test_a_limit_that_passes_is_waited_for(store: Store, record: Callable[[Setup], Recording]) -> None:
    refused = iter([LimitReached("60 runs in one minute.", wait=0.3)])

    def limited(setup: Setup) -> Recording:
        for error in refused:
            raise error
        return record(setup)

    id = begun(store, small())
    steps = work(store, id, limited)
    assert any("60 runs in one minute. (1 s)" in step.doing for step in steps)
    assert (steps[-1].done, steps[-1].failed) == (4, 0)


def test_a_deleted_run_is_to_be_done_again(store: Store, record: Callable[[Setup], Recording]) -> None:
    id = begun(store, small())
    work(store, id, record)
    store.delete(OWNER, [sweep_report.report(store, id).results[2].run])
    assert sweep(store, id).left == 1
    assert work(store, id, record)[-1].done == 4


def test_one_sweep_of_a_person_at_a_time(store: Store, record: Callable[[Setup], Recording]) -> None:
    first, second = begun(store, small()), begun(store, small())
    steps = drive(store, first, OWNER, InProcess(record))
    next(steps)
    with pytest.raises(Busy, match="in another tab"):
        work(store, first, record)
    with pytest.raises(Busy, match="Another sweep of yours"):
        work(store, second, record)
    assert not delete(store, OWNER, first)
    steps.close()
    assert work(store, second, record)[-1].done == 4


def test_numbers_of_two_models_do_not_meet(
    store: Store, record: Callable[[Setup], Recording], tiny_gpt2: CausalModel
) -> None:
    id = begun(store, small())
    for step in (steps := drive(store, id, OWNER, InProcess(record))):
        if step.done:
            break
    steps.close()
    with pytest.raises(OtherModel, match=r"tiny-llama .* tiny-gpt2"):
        work(store, id, lambda setup: store.recording(setup.begin(tiny_gpt2), owner=OWNER))
    assert sweep(store, id).done == 1


def test_other_peoples_sweeps_are_left_alone(store: Store, record: Callable[[Setup], Recording]) -> None:
    id = begun(store, small())
    with pytest.raises(UnknownSweep):
        list(drive(store, id, "somebody else", InProcess(record)))
    assert sweeps(store, "somebody else") == []
    assert not delete(store, "somebody else", id)
    assert delete(store, OWNER, id)
    with pytest.raises(UnknownSweep):
        sweep(store, id)


def test_remaining_time_is_known_after_the_first_run_and_shrinks(
    store: Store, record: Callable[[Setup], Recording]
) -> None:
    steps = work(store, begun(store, small()), record)
    assert steps[0].seconds_left is None
    ends = [step.seconds_left for step in steps if step.finished]
    assert all(seconds is not None for seconds in ends)
    assert ends[-1] == 0


def test_a_killed_process_loses_the_run_that_was_under_way_and_no_other(
    path: Path, tiny_llama_folder: Path, tiny_llama: CausalModel
) -> None:
    program = f"""
import torch; torch.set_num_threads(1)
from engines.models.loading import load_folder
from playground.executors import InProcess
from playground.store import Store
from playground.sweep import drive
from tests.playground.test_sweep import OWNER, begun, small
model = load_folder({str(tiny_llama_folder)!r}, name="tiny-llama")
store = Store.open({str(path)!r})
id = begun(store, small())
for step in drive(store, id, OWNER, InProcess(lambda setup: store.recording(setup.begin(model), owner=OWNER))):
    if step.done == 2 and step.tokens == 3:
        print(id, flush=True)
        time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    id = process.stdout.readline().strip()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with Store.open(path) as store:
        killed = sweep(store, id)
        assert (killed.done, killed.left, killed.at_work) == (2, 2, False)
        kept = work(store, id, lambda setup: store.recording(setup.begin(tiny_llama), owner=OWNER))
        assert kept[-1].done == 4


# The results


def test_an_export_has_a_row_per_run_and_no_formulas(store: Store, record: Callable[[Setup], Recording]) -> None:
    prompts = PromptSet("p", (Asked("=1+1", "abcabc", "kind a"), Asked("b", "xyxy", "kind b")))
    id = begun(store, plan(prompts, METHODS, max_new_tokens=4, raw=True))
    work(store, id, record)
    whole = sweep_report.report(store, id)
    lines = sweep_report.as_csv(whole).splitlines()
    assert lines[0].split(",") == list(sweep_report.COLUMNS)
    assert len(lines) == 5
    assert "'=1+1" in lines[1]
    told = json.loads(sweep_report.as_json(whole))
    assert [one["label"] for one in told["methods"]] == ["Greedy", "Prompt lookup guesses=3"]
    assert [(one["category"], one["done"]) for one in told["categories"]] == [
        ("kind a", 1),
        ("kind a", 1),
        ("kind b", 1),
        ("kind b", 1),
    ]
    assert len(told["runs"]) == 4


def test_median_and_quartiles() -> None:
    found = sweep_report.spread([4.0, 1.0, 3.0, 2.0])
    assert found is not None
    assert (found.low, found.median, found.high) == (1.75, 2.5, 3.25)
    assert sweep_report.spread([]) is None


# The command line


@pytest.fixture
def at_hand(tiny_llama: CausalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny model under the name of the default one, and a folder of its own."""
    import engines

    monkeypatch.setenv("DECODING_PLAYGROUND_DATA", str(tmp_path))
    monkeypatch.setattr(engines, "load", lambda *_, **__: tiny_llama)
    return tmp_path


def test_the_command_sweeps_resumes_and_exports(at_hand: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (at_hand / "p.txt").write_text("abcabc\nxyxy\n")
    asked = ["sweep", "--prompts", str(at_hand / "p.txt"), "--method", "greedy", "--method", "prompt-lookup:guesses=2"]
    assert cli.main([*asked, "--max-new-tokens", "4", "--raw", "--csv", str(at_hand / "o.csv")]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0].startswith("METHOD")
    assert "Prompt lookup guesses=2" in said.out
    assert "2 of 2" in said.out
    assert len((at_hand / "o.csv").read_text().splitlines()) == 5
    id = said.err.split()[1].rstrip(":")
    assert cli.main(["sweep", "--resume", id, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == id
    assert cli.main(["sweep", "--resume", "last", "--method", "greedy"]) == 2
    assert "--method cannot be given beside --resume" in capsys.readouterr().err


def test_an_interrupt_pauses_and_says_how_to_go_on(
    at_hand: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (at_hand / "p.txt").write_text("abcabc\nxyxy\n")
    real, seen = Store.recording, []

    def recording(self: Store, events: object, **more: object) -> Recording:
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(self, events, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "recording", recording)
    asked = ["sweep", "--prompts", str(at_hand / "p.txt"), "--method", "greedy", "--method", "copyspec", "--raw"]
    assert cli.main([*asked, "--max-new-tokens", "4"]) == 130
    said = capsys.readouterr().err
    assert "Paused after 2 of 4 runs." in said
    assert "python -m playground sweep --resume " in said
    assert cli.main(["sweep", "--resume", "last"]) == 0


# Ray


def test_on_ray_the_same_sweep_gives_the_same_outputs(
    store: Store, record: Callable[[Setup], Recording], tiny_llama_folder: Path
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed.")
    from playground.ray_executor import Model, OnRay

    here = begun(store, small("abcabc\nxyxy\n" + "x" * 600))
    work(store, here, record)
    model = Model("tiny-llama", "float32", str(tiny_llama_folder))
    executor = OnRay(model, partial(store.recording, owner=OWNER), workers=2, num_cpus=2, address="local")
    there = begin(store, OWNER, sweep(store, here).plan, model="tiny-llama", precision="float32")
    steps = list(drive(store, there, OWNER, executor))
    assert (steps[-1].done, steps[-1].failed) == (4, 2)
    ours, theirs = (sweep_report.report(store, id) for id in (here, there))
    assert [one.output for one in ours.results] == [one.output for one in theirs.results]
    assert [one.error for one in ours.results] == [one.error for one in theirs.results]
    assert sweep(store, here).weights == sweep(store, there).weights
    for one in theirs.results:
        if one.run:
            assert [event.seq for event in store.events(one.run)] == list(range(len(store.events(one.run))))
    missing = OnRay(
        Model("no-such-model"), partial(store.recording, owner=OWNER), workers=1, num_cpus=1, address="local"
    )
    with pytest.raises(ModelUnavailable, match="no model called"):
        list(drive(store, begun(store, small()), OWNER, missing))

"""The answers of `specbench-mini`, and what they come to: speed-ups, work, goals, as tables.

Speed-ups are over our own greedy decoding, by both formulas of Spec-Bench (`benchmarks.rounds`). A guesser is a method
of ours that guesses; greedy is none, so that it cannot be the best of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from benchmarks.questions import CATEGORIES, COPYING
from benchmarks.report import Setting, table
from benchmarks.rounds import Timing, speed_up, together, total_speed_up
from engines.events import Curve

GREEDY = "greedy"
PEER, PEER_LOOKUP, PEER_ASSISTED = (
    "transformers greedy",
    "transformers prompt lookup",
    "transformers assisted generation",
)
TIE = 1e-4
NAMES = CATEGORIES | COPYING


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One question answered once."""

    contestant: str
    category: str = ""
    question: str = ""
    round: int = 0
    timing: Timing
    passes: int
    """Target passes that yield tokens. transformers yields the first token with the pass over the prompt."""
    read: int
    """Tokens read by these passes."""
    accepted: int | None = None
    rejected: int | None = None
    drafting: int | None = None
    """Passes of the draft model. None where `generate` does not tell."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The first place where an output is not plain greedy's."""

    contestant: str
    question: str
    position: int
    greedy: str
    instead: str
    gap: float | None
    """Logit of greedy's token minus that of the other, in one fresh pass over the text before them; None when one
    output merely stops earlier."""

    @property
    def tie(self) -> bool:
        return self.gap is not None and abs(self.gap) < TIE


class Speculation(msgspec.Struct, frozen=True, kw_only=True):
    """The whole measurement."""

    setting: Setting
    contestants: list[str]
    left_out: dict[str, str]
    """Contestants that could not run, and why."""
    draft: str
    """The model that guesses for methods with a draft, and for transformers' assisted generation."""
    curve: Curve
    """t(q), the cost of a pass over q new tokens behind 256 cached ones."""
    answers: list[Answer]
    differences: list[Difference]

    @property
    def guessers(self) -> list[str]:
        """Our methods that guess."""
        return [name for name in self.contestants if name not in (GREEDY, PEER, PEER_LOOKUP, PEER_ASSISTED)]

    @property
    def assisted(self) -> list[str]:
        """transformers' ways to guess."""
        return [name for name in self.contestants if name in (PEER_LOOKUP, PEER_ASSISTED)]

    @property
    def categories(self) -> list[str]:
        """Those of Spec-Bench that have answers."""
        return [name for name in CATEGORIES if any(answer.category == name for answer in self.answers)]

    @property
    def shown(self) -> list[str]:
        """Categories with answers, the group to copy and edit among them."""
        return [name for name in NAMES if any(answer.category == name for answer in self.answers)]

    def of(self, contestant: str, category: str = "") -> list[Answer]:
        """Its answers in a category, or in the six of Spec-Bench."""
        asked = (category,) if category else tuple(CATEGORIES)
        return [one for one in self.answers if one.contestant == contestant and one.category in asked]

    def timings(self, contestant: str, category: str = "") -> list[Timing]:
        """One timing per question; all rounds of it count together."""
        by_question: dict[str, list[Timing]] = {}
        for answer in self.of(contestant, category):
            by_question.setdefault(answer.question, []).append(answer.timing)
        return [together(timings) for timings in by_question.values()]

    def speed_up(self, contestant: str, category: str = "", over: str = GREEDY) -> float:
        """Spec-Bench's first formula."""
        return speed_up(self.timings(contestant, category), self.timings(over, category))

    def total(self, contestant: str) -> float:
        """Spec-Bench's second formula, over the six categories."""
        return total_speed_up(self.timings(contestant), self.timings(GREEDY))

    def best(self, names: Sequence[str], category: str = "") -> str:
        """The fastest of them."""
        return max(names, key=lambda name: self.speed_up(name, category))


class Effort(msgspec.Struct, frozen=True):
    """What a contestant's answers took."""

    speed: float
    """Tokens per second."""
    tokens_per_pass: float
    seconds_per_pass: float
    read_per_token: float
    drafting_per_token: float
    acceptance: float | None

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> Effort:
        """The effort of at least one answer."""
        total = together([answer.timing for answer in answers])
        passes = sum(answer.passes for answer in answers)
        accepted = sum(answer.accepted or 0 for answer in answers)
        tested = accepted + sum(answer.rejected or 0 for answer in answers)
        return cls(
            speed=total.speed,
            tokens_per_pass=total.tokens / passes,
            seconds_per_pass=total.seconds / passes,
            read_per_token=sum(answer.read for answer in answers) / total.tokens,
            drafting_per_token=sum(answer.drafting or 0 for answer in answers) / total.tokens,
            acceptance=accepted / tested if tested else None,
        )


class Best(msgspec.Struct, frozen=True):
    """The best guesser somewhere."""

    category: str
    """"" for the six of Spec-Bench together."""
    guesser: str
    measured: float
    over: str = GREEDY
    """Whose speed it is measured by."""


class Goal(msgspec.Struct, frozen=True):
    """What was aimed at, and what was reached, in every category that it is about."""

    aim: str
    wanted: float
    reached: list[Best]
    strict: bool = False
    """Whether `wanted` itself is not enough."""

    def met(self, one: Best) -> bool:
        return one.measured > self.wanted if self.strict else one.measured >= self.wanted

    @property
    def missed(self) -> list[Best]:
        return [one for one in self.reached if not self.met(one)]


def goals(result: Speculation) -> list[Goal]:
    """The goals for a machine with two cores. Empty when nobody guessed."""
    guessers, assisted = result.guessers, result.assisted
    if not guessers:
        return []

    def best(category: str, over: str = GREEDY) -> Best:
        name = result.best(guessers, category)
        return Best(category, name, result.speed_up(name, category, over), over)

    copied = ("Summarisation", *COPYING)
    found = [
        Goal("the best method in every category", 1.0, [best(category) for category in result.shown]),
        *(Goal(f"{NAMES[one]}: the best method", 2.0, [best(one)]) for one in copied if one in result.shown),
        Goal("all: the best method", 1.3, [best("")]),
    ]
    if assisted:
        peers = [best(category, result.best(assisted, category)) for category in result.shown]
        found.append(
            Goal("the best method over transformers' best guessing, in every category", 1.0, peers, strict=True)
        )
    return found


def goals_table(result: Speculation) -> str:
    """One line per goal with its weakest category; then every miss with what lies behind it."""
    found = goals(result)
    if not found:
        return ""
    rows = []
    for goal in found:
        weakest = min(goal.reached, key=lambda one: one.measured)
        where = f"{NAMES[weakest.category]}: " if len(goal.reached) > 1 else ""
        over = "" if weakest.over == GREEDY else f" over {weakest.over}"
        verdict = f"missed in {len(goal.missed)} of {len(goal.reached)}" if len(goal.reached) > 1 else "missed"
        rows.append(
            [
                goal.aim,
                f"{'above' if goal.strict else 'at least'} {goal.wanted:.2f}",
                f"{weakest.measured:.2f}",
                f"{where}{weakest.guesser}{over}",
                f"**{verdict}**, by {by(goal, weakest)}" if goal.missed else "met",
            ]
        )
    head = ["goal", "wanted", "measured, at its lowest", "there", ""]
    return "\n\n".join(part for part in (table(head, rows), "\n".join(misses(result, found))) if part)


def misses(result: Speculation, found: Sequence[Goal]) -> list[str]:
    """Every goal that was missed: where, by how much, and why, in passes and their price."""
    lines = []
    for goal in found:
        for one in goal.missed:
            peer = "" if one.over == GREEDY else f", against {effort(result, one, one.over)}"
            place = f", {NAMES[one.category]}" if len(goal.reached) > 1 else ""
            lines.append(
                f"* {goal.aim}{place}: missed by {by(goal, one)}. {one.guesser} is "
                f"{one.measured:.2f} times as fast as {one.over}: {effort(result, one, one.guesser)}{peer}."
            )
    return lines


def effort(result: Speculation, where: Best, name: str) -> str:
    """Tokens per pass and the price of a pass, the two factors of a speed-up."""
    mine = Effort.of(result.of(name, where.category))
    plain = Effort.of(result.of(GREEDY, where.category))
    price = mine.seconds_per_pass / plain.seconds_per_pass
    return f"{mine.tokens_per_pass:.2f} tokens per target pass at {price:.2f} times the time of a plain pass"


def by(goal: Goal, one: Best) -> str:
    """How much is lacking, in words where two digits would say nothing."""
    lacking = goal.wanted - one.measured
    return f"{lacking:.2f}" if lacking >= 0.005 else "less than 0.01"


def tables(result: Speculation) -> str:
    """Speed-ups, goals, work, and the cost curve, in Markdown."""
    curve = table(
        ["t(q): new tokens in a pass", *(f"{size:.0f}" for size in result.curve.x)],
        [["milliseconds", *(f"{1000 * seconds:.1f}" for seconds in result.curve.y)]],
    )
    unequal = "\n".join(
        f"* {each.contestant}, {each.question}, token {each.position}: {each.instead!r} instead of {each.greedy!r}, "
        + ("one output stops there" if each.gap is None else f"logits {each.gap:.1e} apart")
        for each in result.differences
    )
    left_out = "\n".join(f"* {name}: {why}" for name, why in result.left_out.items())
    parts = (
        speeds_table(result),
        goals_table(result),
        work_table(result),
        curve,
        note(result),
        left_out and f"Left out:\n\n{left_out}",
        unequal and f"Differences:\n\n{unequal}",
    )
    return "\n\n".join(part for part in parts if part)


def speeds_table(result: Speculation) -> str:
    """Speed-ups by category; the best guesser of each column is bold."""
    copying = [name for name in result.shown if name in COPYING]
    columns = {NAMES[name]: {one: result.speed_up(one, name) for one in result.contestants} for name in result.shown}
    columns = {name: columns[name] for name in (NAMES[each] for each in result.categories)} | {
        "all": {one: result.speed_up(one) for one in result.contestants},
        "all, total": {one: result.total(one) for one in result.contestants},
        **{NAMES[name]: columns[NAMES[name]] for name in copying},
    }
    best = {name: max((column[one] for one in result.guessers), default=0.0) for name, column in columns.items()}
    rows = []
    for contestant in result.contestants:
        row = [contestant]
        for name, column in columns.items():
            marked = contestant in result.guessers and column[contestant] == best[name]
            row.append(f"**{column[contestant]:.2f}**" if marked else f"{column[contestant]:.2f}")
        rows.append([*row, f"{result.speed_up(contestant, over=PEER):.2f}"])
    return table(["speed-up over our greedy", *columns, "all, over transformers greedy"], rows)


def work_table(result: Speculation) -> str:
    """What the speed-ups are made of, over the six categories; outputs are compared in all of them."""
    plain = Effort.of(result.of(GREEDY))
    rows = []
    for name in result.contestants:
        mine = Effort.of(result.of(name))
        ties = sum(each.contestant == name and each.tie for each in result.differences)
        differ = sum(each.contestant == name and not each.tie for each in result.differences)
        outputs = len({answer.question for answer in result.answers if answer.contestant == name})
        rows.append(
            [
                name,
                f"{mine.speed:.1f}",
                f"{mine.tokens_per_pass:.2f}",
                f"{mine.seconds_per_pass / plain.seconds_per_pass:.2f}",
                f"{mine.read_per_token:.1f}",
                f"{mine.drafting_per_token:.2f}" if mine.drafting_per_token else "–",
                "–" if mine.acceptance is None else f"{100 * mine.acceptance:.0f} %",
                f"{outputs - ties - differ} of {outputs}",
                str(ties),
                str(differ),
            ]
        )
    head = [
        "work",
        "tokens/s",
        "tokens per target pass",
        "time per target pass, × greedy",
        "query tokens per token",
        "draft passes per token",
        "acceptance rate",
        "same as greedy",
        "ties",
        "differ",
    ]
    return table(head, rows)


def note(result: Speculation) -> str:
    """What the numbers mean and where they come from."""
    asked = {(answer.category, answer.question) for answer in result.answers}
    counted = sum(category in CATEGORIES for category, _ in asked)
    beside = len(asked) - counted
    return (
        "Speed-up: ratio of mean tokens per second over questions, as Spec-Bench defines it; *total* is all tokens "
        "over all time. The best of our guessing methods in a column is bold. Time per target pass: all of the time, "
        "drafting and the prompt included, over the number of target passes. Acceptance rate: accepted over tested "
        "guesses; `generate` does not tell, nor how often its assistant ran. "
        f"Ties: outputs whose first difference falls on two tokens with logits less than {TIE:g} apart. "
        f"Where a draft model guesses, it is {result.draft or 'none'}. Questions: {counted}"
        + (f", and {beside} more to copy or edit, which count in no overall number" if beside else "")
        + f". {result.setting.sentence()}"
    )

"""The small world that the span reader learns from: passages made from templates, and questions about them.

A passage tells two facts of a person or a building, and often one of another, which is of the same kind as one of the
two: a distractor. Texts to learn from by
themselves (`story`) say some facts twice, in other words or as a question with its answer; the passages that questions
are asked about (`Asked`) say each fact once. All names and sentences are made up.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

FIRST = (
    "Mary", "Jonas", "Lena", "Peter", "Clara", "Omar", "Ida", "Victor", "Nora", "Felix", "Ruth", "Anton", "Mina",
    "Paul", "Greta", "Samir", "Elsa", "Hugo", "Vera", "Leo", "Amina", "Karl", "Rosa", "Ivan", "Edith", "Tomas",
    "Judith", "Max",
)  # fmt: skip
LAST = (
    "Alder", "Feld", "Ost", "Brandt", "Moreau", "Haddad", "Lind", "Castell", "Winter", "Okoro", "Berg", "Salis",
    "Tanner", "Quist", "Marlow", "Petrov", "Dahl", "Irving", "Novak", "Reyes", "Stone", "Vogel", "Yates", "Zoller",
    "Carver", "Duval", "Elling", "Gruber", "Hartley", "Jansen",
)  # fmt: skip
TOWN_BEGINS = ("Tol", "Bren", "Hel", "San", "Mar", "Kor", "Vel", "Ans", "Dor", "Lun", "Per", "Ost")
TOWN_ENDS = ("va", "nock", "lin", "na", "field", "bury", "mont", "haven", "dale", "stadt")
BUILDINGS = ("mill", "bridge", "library", "tower", "theatre", "school", "harbour", "museum", "castle", "station")
MATERIALS = ("red brick", "grey stone", "oak", "white marble", "iron", "clay and straw", "glass", "black slate", "pine")
TREASURES = (
    "an old clock", "nine paintings", "a silver bell", "four thousand books", "a stone lion", "two maps",
    "a tall organ", "a blue window", "a wooden ship", "three crowns",
)  # fmt: skip
WORK = (
    "baker", "doctor", "painter", "teacher", "sailor", "gardener", "judge", "smith", "pilot", "weaver", "nurse", "cook",
)  # fmt: skip
MUSIC = ("the cello", "the flute", "the organ", "the trumpet", "the harp", "the violin", "the drums", "the piano")
BELONGINGS = (
    "two horses", "a red boat", "an orchard", "three goats", "a small shop", "a green bicycle", "a vineyard",
    "six hens",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Relation:
    """One kind of fact: sentences that tell it, one that tells it again, and questions; {s} subject, {a} answer."""

    answer: str
    tells: tuple[str, ...]
    again: str
    asks: tuple[str, ...]


OF_BUILDINGS = (
    Relation(
        "person",
        ("{s} was built by {a}.", "{a} built {s}.", "The plans of {s} were drawn by {a}."),
        "The builder of {s} was {a}.",
        ("Who built {s}?", "By whom was {s} built?"),
    ),
    Relation(
        "year",
        ("{s} was finished in {a}.", "In {a} the work on {s} ended.", "{s} has been open since {a}."),
        "{a} was the first year of {s}.",
        ("When was {s} finished?", "In which year was {s} finished?"),
    ),
    Relation(
        "height",
        ("{s} is {a} high.", "With {a} {s} can be seen from far away.", "{s} rises {a} above the ground."),
        "The height of {s} is {a}.",
        ("How high is {s}?", "What is the height of {s}?"),
    ),
    Relation(
        "material",
        ("{s} is made of {a}.", "The walls of {s} are of {a}.", "They used {a} for {s}."),
        "One sees much {a} in {s}.",
        ("What is {s} made of?", "Of what are the walls of {s}?"),
    ),
    Relation(
        "person",
        ("{a} looks after {s}.", "{s} is in the care of {a}.", "The keys of {s} are kept by {a}."),
        "The keeper of {s} is {a}.",
        ("Who looks after {s}?", "Who has the keys of {s}?"),
    ),
    Relation(
        "treasure",
        ("{s} is known for {a}.", "Visitors of {s} admire {a}.", "There is {a} in {s}."),
        "The pride of {s} is {a}.",
        ("What do visitors of {s} admire?", "What is {s} known for?"),
    ),
)
OF_PEOPLE = (
    Relation(
        "town",
        ("{s} was born in {a}.", "{s} comes from {a}.", "{a} is where {s} was born."),
        "The birthplace of {s} is {a}.",
        ("Where was {s} born?", "Where does {s} come from?"),
    ),
    Relation(
        "work",
        ("{s} works as a {a}.", "{s} became a {a}.", "{s} is a good {a}."),
        "As a {a} {s} is well known.",
        ("What is the work of {s}?", "What did {s} become?"),
    ),
    Relation(
        "town",
        ("{s} lives in {a}.", "The house of {s} is in {a}.", "{s} has a room in {a}."),
        "The home of {s} is {a}.",
        ("Where does {s} live?", "Where is the house of {s}?"),
    ),
    Relation(
        "music",
        ("{s} plays {a}.", "{s} learnt {a} as a child.", "On Sundays {s} practises {a}."),
        "With {a} {s} is happy.",
        ("What does {s} play?", "What did {s} learn as a child?"),
    ),
    Relation(
        "belonging",
        ("{s} owns {a}.", "{s} is the owner of {a}.", "{s} has got {a}."),
        "What {s} has is {a}.",
        ("What does {s} own?", "What belongs to {s}?"),
    ),
    Relation(
        "year",
        ("{s} left school in {a}.", "In {a} {s} left school.", "School was over for {s} in {a}."),
        "{a} was the last year of {s} at school.",
        ("When did {s} leave school?", "In which year did {s} leave school?"),
    ),
)


def person(rng: random.Random) -> str:
    return f"{rng.choice(FIRST)} {rng.choice(LAST)}"


def town(rng: random.Random) -> str:
    return rng.choice(TOWN_BEGINS) + rng.choice(TOWN_ENDS)


def building(rng: random.Random) -> str:
    return f"the {rng.choice(BUILDINGS)} of {town(rng)}"


def answer_of(kind: str, rng: random.Random) -> str:
    """Some answer of a kind."""
    match kind:
        case "person":
            return person(rng)
        case "town":
            return town(rng)
        case "year":
            return str(rng.randrange(1800, 2000))
        case "height":
            return f"{rng.randrange(8, 96)} metres"
        case "material":
            return rng.choice(MATERIALS)
        case "treasure":
            return rng.choice(TREASURES)
        case "work":
            return rng.choice(WORK)
        case "music":
            return rng.choice(MUSIC)
        case _:
            return rng.choice(BELONGINGS)


@dataclass(frozen=True, slots=True)
class Fact:
    subject: str
    relation: Relation
    answer: str

    def say(self, template: str) -> str:
        """A sentence about it, with a capital letter."""
        text = template.format(s=self.subject, a=self.answer)
        return text[0].upper() + text[1:]


def facts(rng: random.Random) -> list[Fact]:
    """Two facts of one subject, every other time also one of another subject, of a kind that is told already."""
    relations, subject = rng.choice(((OF_BUILDINGS, building), (OF_PEOPLE, person)))
    first, other = subject(rng), subject(rng)
    while other == first:
        other = subject(rng)
    found = [Fact(first, relation, answer_of(relation.answer, rng)) for relation in rng.sample(relations, 2)]
    if rng.random() < 0.5:
        relation = rng.choice(found).relation
        answer = answer_of(relation.answer, rng)
        if all(answer != fact.answer for fact in found):
            found.append(Fact(other, relation, answer))
    rng.shuffle(found)
    return found


def story(rng: random.Random) -> str:
    """A text to learn from: some facts are told, and one of them is told again, or asked and answered at the end."""
    told = facts(rng)
    sentences = [fact.say(rng.choice(fact.relation.tells)) for fact in told]
    twice = rng.choice(told)
    if rng.random() < 0.7:
        return f"{' '.join(sentences)}\nQuestion: {twice.say(rng.choice(twice.relation.asks))}\nAnswer: {twice.answer}."
    sentences.insert(rng.randrange(len(told) + 1), twice.say(twice.relation.again))
    return " ".join(sentences)


@dataclass(frozen=True, slots=True)
class Asked:
    """A passage, a question about it, and the span of it that answers."""

    passage: str
    question: str
    answer: str


def asked(rng: random.Random) -> Asked:
    """A passage and a question. The answer stands in it exactly as it is."""
    told = facts(rng)
    fact = rng.choice(told)
    passage = " ".join(one.say(rng.choice(one.relation.tells)) for one in told)
    assert fact.answer in passage
    return Asked(passage, fact.say(rng.choice(fact.relation.asks)), fact.answer)

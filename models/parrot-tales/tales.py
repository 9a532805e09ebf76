"""Texts of the world together with everything that is true of them.

A `Tale` is a list of sentences and the questions, claims, summary clauses and titles that follow from the
same facts, so every answer is true by construction. Invariants: a question whose key has two different
answers in one tale is never asked; every name, place and thing in an answer stands in the text (or is a
fixed phrase). Leaves to others: how the tasks are worded (skills.py), the things themselves (world.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import world
from world import Mood, Person, Place

UNKNOWN = "The text does not tell."


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its true answer; `key` says which fact is asked for, whatever the wording."""

    key: str
    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence that the text makes true, and a near miss that it makes false."""

    true: str
    false: str


@dataclass(slots=True)
class Tale:
    """A text under construction. Only the `tell_*` functions of episodes.py and facts.py add to it."""

    cast: list[Person]
    mood: Mood
    sentences: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    clauses: list[str] = field(default_factory=list)
    title: str = ""
    places: list[Place] = field(default_factory=list)
    things: list[str] = field(default_factory=list)
    wanted: list[str] = field(default_factory=list)
    mood_sentences: dict[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return " ".join(self.sentences)

    @property
    def hero(self) -> Person:
        return self.cast[0]

    def names(self) -> list[str]:
        """The names in the text, in the order in which they first stand there."""
        return _in_order(self.text, [person.name for person in self.cast])

    def place_names(self) -> list[str]:
        return _in_order(self.text, [place.name for place in self.places])

    def summary(self) -> str:
        return join_clauses(self.clauses)

    def askable(self) -> list[Question]:
        answers: dict[str, set[str]] = {}
        for question in self.questions:
            answers.setdefault(question.key, set()).add(question.answer)
        return [question for question in self.questions if len(answers[question.key]) == 1]

    def keys(self) -> set[str]:
        return {question.key for question in self.questions}

    def ask(self, key: str, text: str, answer: str) -> None:
        self.questions.append(Question(key, text, sentence(answer)))

    def visit(self, place: Place) -> None:
        if place not in self.places:
            self.places.append(place)

    def see(self, thing: str) -> None:
        if thing not in self.things:
            self.things.append(thing)


def sentence(phrase: str) -> str:
    return phrase[0].upper() + phrase[1:] + "."


def join_clauses(clauses: list[str]) -> str:
    """One sentence of several clauses: how a summary of episodes, or of summaries, reads."""
    return ", and ".join(clauses) + "."


def merge_summaries(summaries: list[str]) -> str:
    return join_clauses([summary.removesuffix(".") for summary in summaries])


def _in_order(text: str, words: list[str]) -> list[str]:
    found = {word: text.find(word) for word in words}
    return sorted((word for word in found if found[word] >= 0), key=lambda word: found[word])


def another(rng: Random, options: Sequence[str], than: str) -> str:
    left = [option for option in options if option != than]
    return rng.choice(left)


def recoloured(rng: Random, thing: str) -> str:
    colour, noun = thing.split()
    return f"{another(rng, world.COLOURS, colour)} {noun}"


def another_place(rng: Random, place: Place) -> Place:
    name = another(rng, list(world.PLACES), place.name)
    return Place(name, world.PLACES[name])

"""Changing a text: another name, place or mood; a reviewer who says what is wrong, a writer who mends it.

Invariant: only what the wish names changes; every other word of the text stays. Leaves to others: tasks that
only ask about a text (skills.py).
"""

from __future__ import annotations

import re
from random import Random

import documents
import world
from skills import Task
from tales import Tale, another_place


def replaced(text: str, old: str, new: str) -> str:
    """`text` with the whole words `old` exchanged."""
    return re.sub(rf"\b{re.escape(old)}\b", new, text)


def moved(text: str, old: world.Place, new: world.Place) -> str:
    """`text` playing in another place; the preposition goes with it."""
    there = replaced(text, old.there, new.there)
    sentence_start = f"{old.there[0].upper()}{old.there[1:]}"
    there = replaced(there, sentence_start, f"{new.there[0].upper()}{new.there[1:]}")
    return replaced(there, old.name, new.name)


def rewrite_name(rng: Random, tale: Tale) -> Task:
    old = rng.choice([person for person in tale.cast if person.name in tale.names()])
    new = old
    while new.name in {person.name for person in tale.cast} or new.female != old.female:
        new = world.draw_person(rng)
    wording = rng.choice(
        (
            f"Rewrite the text with the name {new.name} instead of {old.name}.",
            f"Replace {old.name} with {new.name}.",
            f"Rewrite the story. {old.name} is now called {new.name}.",
            f"Change the name {old.name} to {new.name}.",
        )
    )
    return Task("rewrite", wording, replaced(tale.text, old.name, new.name), tale.text, "New text")


def rewrite_place(rng: Random, tale: Tale) -> Task | None:
    if len(tale.place_names()) != 1:
        return None
    old = tale.places[0]
    new = another_place(rng, old)
    wording = rng.choice(
        (
            f"Rewrite the text so that it takes place {new.there}.",
            f"Rewrite the story with {new.name} instead of {old.name}.",
            f"Move the story to {new.name}.",
            f"Let the story take place {new.there}.",
        )
    )
    return Task("rewrite", wording, moved(tale.text, old, new), tale.text, "New text")


def rewrite_mood(rng: Random, tale: Tale) -> Task | None:
    if not tale.mood_sentences:
        return None
    mood = documents.draw_mood(rng)
    wording = rng.choice(
        (
            f"Rewrite the text in a {mood.name} mood.",
            f"Make the story {mood.name}.",
            f"Rewrite the story as a {mood.name} story.",
            f"Rewrite the story with a {mood.name} ending.",
        )
    )
    if "ending" in wording:
        return Task("rewrite", wording, in_mood(tale, mood, ending_only=True), tale.text, "New text")
    return Task("rewrite", wording, in_mood(tale, mood), tale.text, "New text")


def in_mood(tale: Tale, mood: world.Mood, ending_only: bool = False) -> str:
    """The same text in another mood: its sky and its ending are exchanged, nothing else."""
    told = []
    for line in tale.sentences:
        part, index = tale.mood_sentences.get(line, ("", 0))
        if part == "sky" and not ending_only:
            line = mood.skies[index]
        elif part == "ending":
            line = mood.endings[index].format(m=tale.hero.name)
        told.append(line)
    return " ".join(told)


def review(rng: Random, tale: Tale) -> Task:
    """A reviewer is told what the story should be, and says what is wrong with it."""
    good = rng.random() < 0.4
    if rng.random() < 0.5 and tale.place_names():
        place = rng.choice(tale.places)
        wanted = place if good else another_place(rng, place)
        good = wanted.name in tale.place_names()
        wish = f"take place {wanted.there}"
    else:
        name = rng.choice(tale.names()) if good else world.draw_person(rng).name
        good = name in tale.names()
        wish = f"be about {name}"
    wording = rng.choice(
        (
            f"Review the story. It should {wish}.",
            f"You are a reviewer. The story should {wish}. Review it.",
            f"The story should {wish}. Write a review.",
        )
    )
    answer = "The story is good." if good else f"The story should {wish}."
    return Task("review", wording, answer, tale.text, "Review")


def revise(rng: Random, tale: Tale) -> Task | None:
    """A writer who gets a review: the story with the one thing changed, or unchanged when it is good."""
    if len(tale.place_names()) != 1:
        return None
    roll = rng.random()
    if roll < 0.2:
        verdict, answer = "The story is good.", tale.text
    elif roll < 0.6:
        place = another_place(rng, tale.places[0])
        verdict, answer = (
            f"The story should take place {place.there}.",
            moved(tale.text, tale.places[0], place),
        )
    else:
        hero = tale.hero
        new = hero
        while new.name in {person.name for person in tale.cast} or new.female != hero.female:
            new = world.draw_person(rng)
        verdict, answer = f"The story should be about {new.name}.", replaced(tale.text, hero.name, new.name)
    wording = rng.choice(
        (
            "Revise the story.",
            "Write the story again with the review.",
            "Improve the story.",
            "Rewrite the story.",
        )
    )
    return Task(
        "revise", wording, answer, f"{tale.text}\nReview: {verdict}", rng.choice(("Revised story", "Story"))
    )

"""Whole texts: stories of one or more episodes, and notes that are only facts.

Invariants: a text has at most `limit` sentences; the hero of the first episode is the hero of the ending.
Leaves to others: sentences (episodes.py, facts.py), tasks about the texts (skills.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import episodes
import world
from facts import FACTS
from tales import Tale
from world import Mood, Person, Place

EPISODE_SENTENCES = 5


@dataclass(slots=True)
class Wish:
    """What a story must contain; what is left open is drawn."""

    cast: list[Person]
    mood: Mood
    place: Place | None = None
    thing: str | None = None
    extra_names: list[str] = field(default_factory=list)


def draw_mood(rng: Random) -> Mood:
    return world.MOODS[rng.choice(tuple(world.MOODS))]


def draw_wish(rng: Random, cast_size: int) -> Wish:
    return Wish(cast=world.draw_cast(rng, cast_size), mood=draw_mood(rng))


def story(rng: Random, wish: Wish, episode_count: int = 1, fact_count: int = 0) -> Tale:
    """An opening, episodes with facts between them, and an ending in the mood of the wish."""
    tale = Tale(cast=wish.cast, mood=wish.mood, wanted=[wish.thing] if wish.thing else [])
    episodes.tell_opening(tale, rng)
    if rng.random() < 0.6:
        episodes.tell_sky(tale, rng)
    for number in range(episode_count):
        hero, friend = wish.cast[:2] if number == 0 else rng.sample(wish.cast, 2)
        place = wish.place if wish.place and number == 0 else world.draw_place(rng)
        tellers = (episodes.tell_loss, episodes.tell_gift) if tale.wanted else episodes.EPISODES
        rng.choice(tellers)(tale, rng, hero, friend, place)
        for _ in range(_share(rng, fact_count, episode_count, number)):
            rng.choice(FACTS)(tale, rng)
    episodes.tell_ending(tale, rng)
    return tale


def notes(rng: Random, cast: list[Person], count: int) -> Tale:
    """`count` facts about the cast, without a story or a title; up to three of them are their own summary."""
    tale = Tale(cast=cast, mood=draw_mood(rng))
    for _ in range(count):
        rng.choice(FACTS)(tale, rng)
    if count <= 3:
        tale.clauses += [line.removesuffix(".") for line in tale.sentences]
    return tale


def draw_story(rng: Random, limit: int) -> Tale:
    """A story of at most about `limit` sentences (at least seven)."""
    size = rng.randint(6, max(7, limit))
    episode_count = max(1, min(rng.randint(1, 4), size // (EPISODE_SENTENCES + 1)))
    fact_count = max(0, size - 3 - EPISODE_SENTENCES * episode_count)
    if rng.random() < 0.35:
        fact_count = min(fact_count, 2)
    wish = draw_wish(rng, rng.randint(2, 2 + min(3, episode_count)))
    return story(rng, wish, episode_count, fact_count)


def draw_text(rng: Random, limit: int) -> Tale:
    """A text to ask about: short notes, a bare episode, or a story."""
    roll = rng.random()
    if roll < 0.35 or limit < 6:
        cast = world.draw_cast(rng, rng.randint(1, 4))
        return notes(rng, cast, rng.randint(1, min(limit, 8)))
    if roll < 0.5:
        return draw_passage(rng)
    return draw_story(rng, limit)


def draw_passage(rng: Random, cast: list[Person] | None = None) -> Tale:
    """One episode out of a longer text: neither opening nor ending, perhaps a fact."""
    tale = Tale(cast=cast or world.draw_cast(rng, 2), mood=draw_mood(rng))
    rng.choice(episodes.EPISODES)(tale, rng, tale.cast[0], tale.cast[1], world.draw_place(rng))
    for _ in range(rng.choice((0, 0, 1, 2))):
        rng.choice(FACTS)(tale, rng)
    return tale


def _share(rng: Random, facts: int, parts: int, number: int) -> int:
    """How many of the facts follow episode `number`: an even spread."""
    return facts * (number + 1) // parts - facts * number // parts

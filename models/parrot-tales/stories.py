"""Writing stories on request, and going on with a story that has begun.

Invariant: what the request names (people, place, mood of the ending, thing) is in the story; `must` lists
it.
"""

from __future__ import annotations

from random import Random

import documents
import world
from skills import Task
from tales import Tale
from world import Person, article

# Heroes that only a request names; most are in no other text.
STRANGE_HEROES = world.words(
    "snail ghost knight princess queen prince clown monster elephant monkey tiger whale bee tree cloud "
    "star snowman train car astronaut detective fisherman nurse soldier thief giant fairy witch "
    "squirrel hedgehog penguin crocodile spider programmer student musician inventor scientist captain "
    "shark pig sheep snake"
)


def write_story(rng: Random) -> tuple[Task, Tale]:
    """A request for a story and a tale that fulfils it, about which more can be asked."""
    wish = documents.draw_wish(rng, rng.choice((2, 2, 3)))
    hero = wish.cast[0]
    if rng.random() < 0.25:
        hero = Person(hero.name, rng.choice(STRANGE_HEROES), hero.female)
        wish.cast[0] = hero
    must: list[str] = []
    about = _about(rng, wish, must)
    if rng.random() < 0.5:
        wish.place = world.draw_place(rng)
        must.append(wish.place.name)
        about += f" {wish.place.there}"
    kind, extra = "", ""
    roll = rng.random()
    if roll < 0.2:
        kind = f"{wish.mood.name} "
    elif roll < 0.4:
        extra = f" with {article(wish.mood.name)} ending"
    length = rng.choice(("", "", "", "", "short ", "long "))
    tale = documents.story(rng, wish, *_size(rng, length))
    if kind or extra:
        must.append(wish.mood.feeling)
    if rng.random() < 0.08:
        extra += f". Its title is {tale.title}"
    wording = rng.choice(
        (
            f"Write a {length}{kind}story{about}{extra}.",
            f"Write a {length}{kind}story{about}{extra}",
            f"Tell me a {length}{kind}story{about}{extra}.",
            f"Please write a {length}{kind}tale{about}{extra}.",
            f"I want a {length}{kind}story{about}{extra}.",
        )
    )
    return Task("story", wording, tale.text, cue="Story", must=tuple(must)), tale


def _about(rng: Random, wish: documents.Wish, must: list[str]) -> str:
    hero, friend = wish.cast[:2]
    roll = rng.random()
    if roll < 0.3:
        must += [hero.name, hero.kind]
        return f" about {article(hero.kind)} named {hero.name}"
    if roll < 0.45:
        must.append(hero.name)
        return f" about {hero.name}"
    if roll < 0.6:
        must += [hero.name, friend.name]
        return f" {rng.choice(('about', 'with'))} {hero.name} and {friend.name}"
    if roll < 0.75:
        must.append(hero.kind)
        if rng.random() < 0.35:
            must += [hero.name, friend.name]
            return f" about {article(hero.kind)} with {hero.name} and {friend.name}"
        return f" about {article(hero.kind)}"
    if roll < 0.87:
        wish.thing = world.draw_treasure(rng)
        must.append(wish.thing)
        return f" about {article(wish.thing)}"
    return ""


def _size(rng: Random, length: str) -> tuple[int, int]:
    """Episodes and facts."""
    if length == "long ":
        return rng.choice((2, 3)), rng.randint(2, 4)
    if length == "short ":
        return 1, 0
    return 1, rng.choice((0, 0, 1, 2))


def continue_story(rng: Random) -> Task:
    """A story cut at some sentence and the rest of it."""
    tale = documents.draw_story(rng, 14)
    cut = rng.randint(1, len(tale.sentences) - 2)
    begun, rest = " ".join(tale.sentences[:cut]), " ".join(tale.sentences[cut:])
    wording = rng.choice(
        (
            "Continue the story.",
            "Continue the text.",
            "Go on with the story.",
            "Finish the story.",
            "How does the story go on?",
        )
    )
    return Task("continue", wording, rest, begun, "Continuation", must=(tale.hero.name,))


def open_story(rng: Random) -> tuple[str, str]:
    """A bare beginning without any instruction ("Once upon a time") and how it goes on."""
    tale = documents.draw_story(rng, 14)
    if rng.random() < 0.5:
        words = tale.text.split(" ")
        cut = rng.randint(1, min(12, len(words) - 1))
        return " ".join(words[:cut]), " " + " ".join(words[cut:])
    cut = rng.randint(1, len(tale.sentences) - 1)
    return " ".join(tale.sentences[:cut]), " " + " ".join(tale.sentences[cut:])

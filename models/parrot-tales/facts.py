"""Small facts: one sentence each, with a question or two that it answers.

Invariant: a fact is about somebody of the cast and does not depend on the sentences before it, so it may
stand anywhere in a text. Leaves to others: episodes (episodes.py), whole texts (documents.py).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import world
from episodes import fresh_thing
from tales import Claim, Tale, another, another_place, recoloured
from world import article


def tell_count(tale: Tale, rng: Random) -> None:
    person, noun, number = rng.choice(tale.cast), rng.choice(world.COUNTABLES), rng.choice(world.NUMBERS)
    verb, base = rng.choice((("had", "have"), ("picked", "pick"), ("found", "find"), ("counted", "count")))
    tale.sentences.append(f"{person.name} {verb} {number} {noun}.")
    tale.ask(f"count {person.name} {noun}", f"How many {noun} did {person.name} {base}?", number)
    tale.ask(f"who count {noun}", f"Who {verb} {number} {noun}?", person.name)
    wrong = another(rng, world.NUMBERS, number)
    tale.claims.append(
        Claim(f"{person.name} {verb} {number} {noun}.", f"{person.name} {verb} {wrong} {noun}.")
    )


def tell_liking(tale: Tale, rng: Random) -> None:
    person, hobby = rng.choice(tale.cast), rng.choice(world.HOBBIES + world.FOODS)
    tale.sentences.append(f"{person.name} liked {hobby}.")
    tale.ask(f"like {person.name}", f"What did {person.name} like?", hobby)
    tale.ask(f"who likes {hobby}", f"Who liked {hobby}?", person.name)
    wrong = another(rng, world.HOBBIES + world.FOODS, hobby)
    tale.claims.append(Claim(f"{person.name} liked {hobby}.", f"{person.name} liked {wrong}."))


def tell_clothes(tale: Tale, rng: Random) -> None:
    person, colour = rng.choice(tale.cast), rng.choice(world.COLOURS)
    noun = rng.choice(("hat", "coat", "scarf"))
    tale.sentences.append(f"{person.name} wore {article(f'{colour} {noun}')}.")
    tale.ask(f"colour {person.name} {noun}", f"What colour was the {noun} of {person.name}?", colour)
    tale.ask(f"wear {person.name}", f"What did {person.name} wear?", article(f"{colour} {noun}"))
    wrong = another(rng, world.COLOURS, colour)
    tale.claims.append(
        Claim(
            f"{person.name} wore {article(f'{colour} {noun}')}.",
            f"{person.name} wore {article(f'{wrong} {noun}')}.",
        )
    )


def tell_sighting(tale: Tale, rng: Random) -> None:
    person, place = rng.choice(tale.cast), world.draw_place(rng)
    creature = f"{rng.choice(world.COLOURS)} {rng.choice(world.CREATURES)}"
    tale.visit(place)
    tale.sentences.append(f"{person.name} saw {article(creature)} {place.there}.")
    tale.ask(
        f"saw {person.name} {place.name}", f"What did {person.name} see {place.there}?", article(creature)
    )
    tale.ask(
        f"where saw {person.name} {creature}",
        f"Where did {person.name} see {article(creature)}?",
        place.there,
    )
    tale.ask(f"who saw {creature}", f"Who saw {article(creature)}?", person.name)
    wrong = recoloured(rng, creature)
    tale.claims.append(
        Claim(f"{person.name} saw {article(creature)}.", f"{person.name} saw {article(wrong)}.")
    )


def tell_reason(tale: Tale, rng: Random) -> None:
    person = rng.choice(tale.cast)
    reason = rng.choice(
        (f"{person.he} was tired", f"{person.he} was late", f"{person.he} heard a noise", "the day was long")
    )
    verb, base = rng.choice(
        (("ran", "run"), ("slept", "sleep"), ("sang", "sing"), ("waited", "wait"), ("shouted", "shout"))
    )
    tale.sentences.append(f"{person.name} {verb} because {reason}.")
    tale.ask(f"why {verb} {person.name}", f"Why did {person.name} {base}?", f"because {reason}")
    tale.ask(f"who {verb} {reason}", f"Who {verb} because {reason}?", person.name)


def tell_stay(tale: Tale, rng: Random) -> None:
    person, place = rng.choice(tale.cast), world.draw_place(rng)
    verb, base = rng.choice((("worked", "work"), ("played", "play"), ("rested", "rest")))
    tale.visit(place)
    tale.sentences.append(f"{person.name} {verb} {place.there}.")
    tale.ask(f"where {verb} {person.name}", f"Where did {person.name} {base}?", place.there)
    tale.ask(f"who {verb} {place.name}", f"Who {verb} {place.there}?", person.name)
    wrong = another_place(rng, place)
    tale.claims.append(Claim(f"{person.name} {verb} {place.there}.", f"{person.name} {verb} {wrong.there}."))


def tell_find(tale: Tale, rng: Random) -> None:
    person, place, thing = rng.choice(tale.cast), world.draw_place(rng), fresh_thing(tale, rng)
    tale.visit(place)
    tale.sentences.append(f"{person.name} found {article(thing)} {place.there}.")
    tale.ask(f"finder {thing}", f"Who found {article(thing)}?", person.name)
    tale.ask(f"where find {thing}", f"Where did {person.name} find {article(thing)}?", place.there)
    tale.ask(
        f"find {person.name} {place.name}", f"What did {person.name} find {place.there}?", article(thing)
    )
    wrong = recoloured(rng, thing)
    tale.claims.append(
        Claim(f"{person.name} found {article(thing)}.", f"{person.name} found {article(wrong)}.")
    )


def tell_state(tale: Tale, rng: Random) -> None:
    person = rng.choice(tale.cast)
    state = rng.choice(("glad", "proud", "angry", "hungry", "tired", "lonely", "nervous"))
    why = rng.choice(
        ("it was late", f"{person.he} had no friends", f"{person.he} had won", "the road was long")
    )
    if rng.random() < 0.4:
        tale.sentences.append(f"{person.name} was {state}.")
    else:
        tale.sentences.append(f"{person.name} was {state} because {why}.")
        tale.ask(f"why {state} {person.name}", f"Why was {person.name} {state}?", f"because {why}")
    tale.ask(f"who {state}", f"Who was {state}?", person.name)


FACTS: tuple[Callable[[Tale, Random], None], ...] = (
    tell_count,
    tell_liking,
    tell_clothes,
    tell_sighting,
    tell_reason,
    tell_stay,
    tell_find,
    tell_state,
)

"""What happens in a story: its opening, sky and ending, and the episodes between them.

Every episode is four or so sentences, the questions and claims they make true, and one summary clause.
Invariant: an episode names its hero, its friend and its place in the sentences it adds. Leaves to others:
small facts (facts.py), how long a text is and what is in it (documents.py).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import world
from tales import Claim, Tale, another, another_place, recoloured, sentence
from world import Person, Place, article


def tell_opening(tale: Tale, rng: Random) -> None:
    hero = tale.hero
    home = world.draw_place(rng) if rng.random() < 0.4 else None
    lived = rng.random() < 0.5
    if home and lived:
        once = rng.choice(("Once upon a time ", "Once ", ""))
        line = f"{once}{article(hero.kind)} named {hero.name} lived {home.there}."
        tale.sentences.append(line[0].upper() + line[1:])
    else:
        tale.sentences.append(
            rng.choice(
                (
                    f"Once upon a time there was {article(hero.kind)} named {hero.name}.",
                    f"There once was {article(hero.kind)} named {hero.name}.",
                    f"{hero.name} was {article(hero.kind)}.",
                )
            )
        )
    _ask_kind(tale, hero)
    if home:
        tale.visit(home)
        if not lived:
            tale.sentences.append(f"{rng.choice((hero.name, hero.He))} lived {home.there}.")
        tale.ask(f"home {hero.name}", f"Where did {hero.name} live?", home.there)
        false = f"{hero.name} lived {another_place(rng, home).there}."
        tale.claims.append(Claim(f"{hero.name} lived {home.there}.", false))


def _ask_kind(tale: Tale, person: Person) -> None:
    tale.ask(f"kind {person.name}", f"What was {person.name}?", article(person.kind))
    kinds = [other.kind for other in tale.cast]
    if kinds.count(person.kind) == 1:
        tale.ask(f"who kind {person.kind}", f"Who was the {person.kind}?", person.name)


def tell_sky(tale: Tale, rng: Random) -> None:
    index = rng.randrange(len(tale.mood.skies))
    tale.sentences.append(tale.mood.skies[index])
    tale.mood_sentences[tale.mood.skies[index]] = ("sky", index)


def tell_ending(tale: Tale, rng: Random) -> None:
    hero = tale.hero
    index = rng.randrange(len(tale.mood.endings))
    ending = tale.mood.endings[index].format(m=hero.name)
    tale.sentences.append(ending)
    tale.mood_sentences[ending] = ("ending", index)
    feeling = tale.mood.feeling
    tale.ask(f"feel {hero.name}", f"How did {hero.name} feel in the end?", feeling)
    wrong = another(rng, [mood.feeling for mood in world.MOODS.values()], feeling)
    tale.claims.append(
        Claim(f"In the end {hero.name} was {feeling}.", f"In the end {hero.name} was {wrong}.")
    )


def _once(rng: Random) -> str:
    return rng.choice(("One day", "One morning", "One afternoon", "One evening", "The next day"))


def _introduce(tale: Tale, hero: Person, friend: Person, place: Place) -> str:
    """The sentence of a meeting; asks who was met."""
    _ask_kind(tale, friend)
    tale.ask(f"met {hero.name} {place.name}", f"Who did {hero.name} meet {place.there}?", friend.name)
    return sentence(f"{place.there} {hero.name} met {friend.name}, {article(friend.kind)}")


def tell_loss(tale: Tale, rng: Random, hero: Person, friend: Person, place: Place) -> None:
    thing = fresh_thing(tale, rng)
    tale.visit(place)
    tale.sentences += [
        f"{_once(rng)} {hero.name} lost {article(thing)}.",
        f"{rng.choice((hero.name, hero.He))} went to {place.name} to look for it.",
        _introduce(tale, hero, friend, place),
        rng.choice(
            (
                f"{friend.name} had found the {thing} and gave it back to {hero.name}.",
                f"{friend.name} found the {thing} and gave it back to {hero.name}.",
            )
        ),
    ]
    tale.ask(f"lost {hero.name}", f"What did {hero.name} lose?", article(thing))
    tale.ask(f"loser {thing}", f"Who lost {article(thing)}?", hero.name)
    tale.ask(f"finder {thing}", f"Who found the {thing}?", friend.name)
    tale.ask(
        f"why go {hero.name} {place.name}",
        f"Why did {hero.name} go to {place.name}?",
        f"to look for the {thing}",
    )
    tale.ask(f"go {hero.name}", f"Where did {hero.name} go?", f"to {place.name}")
    tale.claims.append(Claim(f"{friend.name} found the {thing}.", f"{hero.name} found the {thing}."))
    tale.claims.append(
        Claim(f"{hero.name} lost {article(thing)}.", f"{hero.name} lost {article(recoloured(rng, thing))}.")
    )
    tale.clauses.append(f"{hero.name} lost {article(thing)} but {friend.name} found it {place.there}")
    tale.title = tale.title or f"{hero.name} and the {thing.title()}"


def tell_errand(tale: Tale, rng: Random, hero: Person, friend: Person, place: Place) -> None:
    food = rng.choice(world.FOODS)
    reason = rng.choice(("was hungry", "had a guest", "wanted to cook", "loved it"))
    tale.visit(place)
    tale.sentences += [
        f"{_once(rng)} {hero.name} went to {place.name} to buy {food}.",
        _introduce(tale, hero, friend, place),
        f"{friend.name} asked for some {food} because {friend.he} {reason}.",
        f"{hero.name} shared the {food} with {friend.name}.",
    ]
    tale.ask(f"buy {hero.name}", f"What did {hero.name} buy?", food)
    tale.ask(f"why go {hero.name} {place.name}", f"Why did {hero.name} go to {place.name}?", f"to buy {food}")
    tale.ask(f"go {hero.name}", f"Where did {hero.name} go?", f"to {place.name}")
    tale.ask(
        f"why ask {friend.name} {food}",
        f"Why did {friend.name} ask for {food}?",
        f"because {friend.he} {reason}",
    )
    tale.ask(f"asker {food}", f"Who asked for {food}?", friend.name)
    tale.ask(f"shared {food}", f"Who did {hero.name} share the {food} with?", friend.name)
    wrong = another(rng, world.FOODS, food)
    tale.claims.append(Claim(f"{hero.name} shared the {food}.", f"{hero.name} shared the {wrong}."))
    tale.claims.append(
        Claim(f"{hero.name} went to {place.name}.", f"{hero.name} went to {another_place(rng, place).name}.")
    )
    tale.clauses.append(f"{hero.name} bought {food} {place.there} and shared it with {friend.name}")
    tale.title = tale.title or f"{hero.name} Shares the {food.capitalize()}"


def tell_visit(tale: Tale, rng: Random, hero: Person, friend: Person, place: Place) -> None:
    hobby = rng.choice(world.HOBBIES)
    reason = rng.choice(("was lonely", "was bored", "missed an old friend", "had good news"))
    _ask_kind(tale, friend)
    tale.visit(place)
    tale.sentences += [
        f"{_once(rng)} {hero.name} visited {friend.name}, {article(friend.kind)}, {place.there}.",
        f"{rng.choice((hero.name, hero.He))} came because {hero.he} {reason}.",
        f"They spent the day {hobby}.",
    ]
    tale.ask(f"visited {hero.name}", f"Who did {hero.name} visit?", friend.name)
    tale.ask(f"visitor {friend.name}", f"Who visited {friend.name}?", hero.name)
    tale.ask(
        f"why visit {hero.name} {friend.name}",
        f"Why did {hero.name} visit {friend.name}?",
        f"because {hero.he} {reason}",
    )
    tale.ask(
        f"where visit {hero.name} {friend.name}", f"Where did {hero.name} visit {friend.name}?", place.there
    )
    tale.ask(
        f"pastime {hero.name} {friend.name}",
        f"What did {hero.name} and {friend.name} do?",
        f"they spent the day {hobby}",
    )
    tale.claims.append(Claim(f"{hero.name} visited {friend.name}.", f"{friend.name} visited {hero.name}."))
    wrong = another(rng, world.HOBBIES, hobby)
    tale.claims.append(Claim(f"They spent the day {hobby}.", f"They spent the day {wrong}."))
    tale.clauses.append(f"{hero.name} visited {friend.name} {place.there} and they spent the day {hobby}")
    tale.title = tale.title or f"{hero.name} Visits {friend.name}"


def tell_gift(tale: Tale, rng: Random, hero: Person, friend: Person, place: Place) -> None:
    thing = fresh_thing(tale, rng)
    reason = rng.choice(("it was {his} birthday", "{he} was ill", "{he} had been kind", "{he} was sad"))
    reason = reason.format(he=friend.he, his=friend.his)
    _ask_kind(tale, friend)
    tale.visit(place)
    tale.sentences += [
        f"{friend.name} was {article(friend.kind)} and a friend of {hero.name}.",
        f"{rng.choice(('', _once(rng) + ' '))}{hero.name} found {article(thing)} {place.there}.",
        f"{rng.choice((hero.name, hero.He))} gave the {thing} to {friend.name} because {reason}.",
        f"{friend.name} thanked {hero.name}.",
    ]
    tale.ask(
        f"gave {hero.name} {friend.name}", f"What did {hero.name} give to {friend.name}?", article(thing)
    )
    tale.ask(f"giver {thing}", f"Who gave the {thing} to {friend.name}?", hero.name)
    tale.ask(f"receiver {thing}", f"Who got the {thing}?", friend.name)
    tale.ask(
        f"why give {friend.name}",
        f"Why did {hero.name} give the {thing} to {friend.name}?",
        f"because {reason}",
    )
    tale.ask(f"where find {thing}", f"Where did {hero.name} find the {thing}?", place.there)
    tale.ask(f"finder {thing}", f"Who found the {thing}?", hero.name)
    tale.claims.append(
        Claim(
            f"{hero.name} gave the {thing} to {friend.name}.",
            f"{friend.name} gave the {thing} to {hero.name}.",
        )
    )
    wrong = another_place(rng, place).there
    tale.claims.append(
        Claim(f"{hero.name} found the {thing} {place.there}.", f"{hero.name} found the {thing} {wrong}.")
    )
    tale.clauses.append(f"{hero.name} found {article(thing)} {place.there} and gave it to {friend.name}")
    tale.title = tale.title or f"A {thing.title()} for {friend.name}"


Episode = Callable[[Tale, Random, Person, Person, Place], None]
EPISODES: tuple[Episode, ...] = (tell_loss, tell_errand, tell_visit, tell_gift)


def fresh_thing(tale: Tale, rng: Random) -> str:
    if tale.wanted:
        thing = tale.wanted.pop()
        tale.see(thing)
        return thing
    thing = world.draw_treasure(rng)
    while any(thing.split()[1] == seen.split()[1] for seen in tale.things) and len(tale.things) < 12:
        thing = world.draw_treasure(rng)
    tale.see(thing)
    return thing

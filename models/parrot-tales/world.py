"""The things of the little English world: people, animals, places, objects, moods, and the words for them.

Invariant: every draw takes its randomness from the `Random` that is passed in, so that a seed fixes a
world. One name in eight is made of random syllables, so that a model learns to copy names, not to know
them. Leaves to others: what happens (tales.py), what is asked about it (skills.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


GIRLS = words(
    "Mia Anna Lily Emma Sara Lucy Nora Ella Alice Clara Zoe Ruby Ida Rosa Maya Eva Jane Kate Mary Lena Grace "
    "Amy Hanna Julia Laura Molly Nina Olga Paula Rita Sofia Tina Vera Wendy Yara Bella Daisy Fiona Gina Holly"
)
BOYS = words(
    "Tom Ben Max Leo Sam Tim Jack Paul Noah Finn Oscar Bob Hugo Felix Adam Carl David Eric Fred George Henry "
    "Ivan John Kevin Luke Mark Nick Otto Peter Ralph Simon Theo Victor Will Alex Bruno Daniel Emil Frank "
    "Jonas"
)
HUMAN_ROLES = words(
    "teacher baker farmer doctor painter sailor singer gardener king pirate wizard pilot cook"
)
ANIMALS = words(
    "fox rabbit bear cat dog mouse bird horse frog duck owl wolf lion cow hen goat dragon robot parrot turtle"
)
COLOURS = words("red blue green yellow white black brown golden silver pink")
TREASURES = words(
    "ball hat key book kite boat lamp ring cup coat map bell drum flute box scarf basket coin shoe mirror"
)
FOODS = words("bread soup cake cheese honey milk rice pie jam fish")
COUNTABLES = words("apples pears eggs flowers stones shells nuts carrots stars feathers")
CREATURES = words("horse bird deer snake goat swan cow owl snail butterfly")
HOBBIES = words("dancing singing reading swimming cooking painting running fishing climbing sleeping")
NUMBERS = words("two three four five six seven eight nine ten twelve")

# A place and the word that says "being there".
PLACES = {
    "the park": "in",
    "the forest": "in",
    "the garden": "in",
    "the village": "in",
    "the castle": "in",
    "the kitchen": "in",
    "the library": "in",
    "the desert": "in",
    "the cave": "in",
    "the town": "in",
    "the barn": "in",
    "the market": "at",
    "the river": "at",
    "the lake": "at",
    "the school": "at",
    "the harbour": "at",
    "the station": "at",
    "the farm": "on",
    "the beach": "on",
    "the island": "on",
    "the hill": "on",
    "the bridge": "on",
    "London": "in",
    "Paris": "in",
    "Rome": "in",
    "Berlin": "in",
}


@dataclass(frozen=True, slots=True)
class Mood:
    """How a tale feels: its sky, its ending ({m} is the hero), and the hero's feeling in the end."""

    name: str
    feeling: str
    skies: tuple[str, ...]
    endings: tuple[str, ...]


MOODS = {
    mood.name: mood
    for mood in (
        Mood(
            "happy",
            "happy",
            ("The sun was shining.", "It was a bright day.", "The birds were singing."),
            ("In the end {m} was happy and smiled.", "In the end {m} was happy and danced all evening."),
        ),
        Mood(
            "sad",
            "sad",
            ("It was raining.", "The sky was grey.", "It was a cold day."),
            ("In the end {m} was sad and cried.", "In the end {m} was sad and walked home alone."),
        ),
        Mood(
            "funny",
            "cheerful",
            ("The wind stole all the hats.", "A duck was laughing.", "The clouds looked like socks."),
            (
                "In the end {m} was cheerful and laughed out loud.",
                "In the end {m} was cheerful and told a joke.",
            ),
        ),
        Mood(
            "scary",
            "afraid",
            ("The night was dark.", "The wind was howling.", "There was thick fog."),
            ("In the end {m} was afraid and ran home.", "In the end {m} was afraid and hid under the bed."),
        ),
        Mood(
            "calm",
            "calm",
            ("The evening was quiet.", "Soft snow was falling.", "The air was warm and still."),
            ("In the end {m} was calm and fell asleep.", "In the end {m} was calm and watched the moon."),
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Person:
    name: str
    kind: str
    female: bool

    @property
    def he(self) -> str:
        return "she" if self.female else "he"

    @property
    def He(self) -> str:
        """The pronoun as the first word of a sentence."""
        return self.he.capitalize()

    @property
    def him(self) -> str:
        return "her" if self.female else "him"

    @property
    def his(self) -> str:
        return "her" if self.female else "his"


@dataclass(frozen=True, slots=True)
class Place:
    name: str
    preposition: str

    @property
    def there(self) -> str:
        """ "in the park"."""
        return f"{self.preposition} {self.name}"


def article(noun: str) -> str:
    """ "an owl", "a red ball"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def invented_name(rng: Random) -> str:
    """A name nobody has: two or three syllables."""
    syllables = [rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.choice((2, 2, 3)))]
    return "".join(syllables).capitalize() + rng.choice(("", "", "n", "r", "s", "x"))


def draw_person(rng: Random, taken: frozenset[str] = frozenset()) -> Person:
    while True:
        female = rng.random() < 0.5
        name = invented_name(rng) if rng.random() < 0.125 else rng.choice(GIRLS if female else BOYS)
        if name not in taken:
            break
    kind = rng.choice(
        (
            "girl" if female else "boy",
            "woman" if female else "man",
            rng.choice(HUMAN_ROLES),
            rng.choice(ANIMALS),
            rng.choice(ANIMALS),
        )
    )
    return Person(name, kind, female)


def draw_cast(rng: Random, size: int) -> list[Person]:
    cast: list[Person] = []
    while len(cast) < size:
        cast.append(draw_person(rng, frozenset(person.name for person in cast)))
    return cast


def draw_place(rng: Random) -> Place:
    if rng.random() < 0.04:
        return Place(invented_name(rng), "in")
    name = rng.choice(tuple(PLACES))
    return Place(name, "near" if rng.random() < 0.1 else PLACES[name])


def draw_treasure(rng: Random) -> str:
    return f"{rng.choice(COLOURS)} {rng.choice(TREASURES)}"

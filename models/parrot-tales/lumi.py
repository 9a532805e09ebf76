"""Lumi, the toy language of the world: a word for a word, in the order of English, names unchanged.

Invariant: the dictionary is one to one, so a translation back gives the first sentence again.
"""

from __future__ import annotations

from random import Random

import world

DICTIONARY = {
    "the": "lo",
    "sees": "vidu",
    "likes": "amu",
    "has": "tenu",
    "finds": "trovu",
    "wants": "volu",
    "eats": "manu",
    "follows": "sequ",
    "and": "et",
    "small": "pik",
    "big": "gran",
    "red": "rosh",
    "blue": "azu",
    "green": "verd",
    "old": "vet",
    "new": "nov",
    "happy": "jol",
    "sad": "trist",
    "fox": "zorr",
    "rabbit": "konik",
    "bear": "urso",
    "cat": "mish",
    "dog": "kan",
    "bird": "ptik",
    "horse": "kaval",
    "fish": "pesh",
    "ball": "bolo",
    "hat": "kapo",
    "key": "klef",
    "book": "livo",
    "boat": "bark",
    "house": "domo",
    "tree": "arbo",
    "flower": "flor",
    "apple": "pomo",
    "bread": "pano",
    "in": "en",
    "near": "pru",
    "with": "kon",
    "park": "parku",
    "forest": "bosk",
    "river": "rivo",
    "garden": "jard",
}
_BACK = {lumi: english for english, lumi in DICTIONARY.items()}
_VERBS = ["sees", "likes", "has", "finds", "wants", "eats", "follows"]
_ADJECTIVES = ["small", "big", "red", "blue", "green", "old", "new", "happy", "sad"]
_ANIMALS = ["fox", "rabbit", "bear", "cat", "dog", "bird", "horse", "fish"]
_THINGS = ["ball", "hat", "key", "book", "boat", "house", "tree", "flower", "apple", "bread"]
_PLACES = ["park", "forest", "river", "garden"]


def draw_sentence(rng: Random) -> str:
    """An English sentence all of whose words Lumi has."""
    place = f" {rng.choice(('in', 'near'))} the {rng.choice(_PLACES)}" if rng.random() < 0.3 else ""
    text = f"{_subject(rng)} {rng.choice(_VERBS)} {_noun(rng, _ANIMALS + _THINGS)}{place}."
    return text[0].upper() + text[1:]


def _subject(rng: Random) -> str:
    if rng.random() < 0.35:
        return world.draw_person(rng).name
    return _noun(rng, _ANIMALS)


def _noun(rng: Random, nouns: list[str]) -> str:
    adjective = f"{rng.choice(_ADJECTIVES)} " if rng.random() < 0.5 else ""
    return f"the {adjective}{rng.choice(nouns)}"


def to_lumi(text: str) -> str:
    """Lumi for sentences of known words; unknown words (names) stay."""
    return _exchange(text, DICTIONARY)


def to_english(text: str) -> str:
    return _exchange(text, _BACK)


def _exchange(text: str, words: dict[str, str]) -> str:
    sentences = [line for line in text.split(".") if line.strip()]
    return " ".join(_exchange_sentence(line, words) for line in sentences)


def _exchange_sentence(line: str, words: dict[str, str]) -> str:
    first, *rest = line.split()
    told = [words.get(first.lower(), first), *(words.get(word, word) for word in rest)]
    return " ".join(told)[0].upper() + " ".join(told)[1:] + "."

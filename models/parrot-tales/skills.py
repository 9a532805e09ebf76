"""What can be asked about a text of the world: instruction, cue and true answer.

A `Task` is a wording and its answer; how it is put into a chat or a plain prompt is prompts.py's.
Invariant: the answer follows from the text alone, is the same for every wording, and is the only right one
(`must` empty) or must hold the strings in `must` (stories).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random

import documents
import lumi
import world
from documents import Wish
from tales import UNKNOWN, Question, Tale, merge_summaries

# Facts that the summary clause of an episode still tells.
_IN_SUMMARY = ("lost", "loser", "finder", "buy", "visited", "visitor", "pastime", "where visit", "gave",
               "giver", "receiver", "where find", "shared")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Task:
    """`instruction` asks for `answer` about `text` (may be empty); `cue` stands before a plain answer."""

    skill: str
    instruction: str
    answer: str
    text: str = ""
    cue: str = "Answer"
    must: tuple[str, ...] = ()


def answer_question(rng: Random, tale: Tale) -> Task | None:
    questions = tale.askable()
    if rng.random() < 0.25:
        return Task("unknown", _unanswerable(rng, tale).text, UNKNOWN, tale.text)
    if not questions:
        return None
    question = rng.choice(questions)
    return Task("question", question.text, question.answer, tale.text)


def question_summary(rng: Random, tale: Tale) -> Task | None:
    """A question about a summary instead of the whole text."""
    known = [question for question in tale.askable() if question_in_summary(question)]
    if not known or not tale.clauses:
        return None
    question = rng.choice(known)
    return Task("question", question.text, question.answer, tale.summary())


def question_in_summary(question: Question) -> bool:
    """Whether the summary of the text still answers it."""
    return question.key.startswith(_IN_SUMMARY)


def _unanswerable(rng: Random, tale: Tale) -> Question:
    """A question about the same people whose answer is in another text."""
    known = tale.keys() | {question.text for question in tale.questions}
    while True:
        cast = rng.sample(tale.cast, len(tale.cast))
        cast.append(world.draw_person(rng, frozenset(person.name for person in cast)))
        if rng.random() < 0.5:
            other = documents.notes(rng, cast, 3)
        else:
            other = documents.story(rng, Wish(cast, tale.mood))
        strange = [
            question
            for question in other.questions
            if question.key not in known
            and question.text not in known
            and not question.key.startswith("who kind")
        ]
        if strange:
            return rng.choice(strange)


def summarise(rng: Random, tale: Tale) -> Task | None:
    if not tale.clauses:
        return None
    return Task("summary", _summary_wording(rng), tale.summary(), tale.text, _summary_cue(rng))


def _summary_wording(rng: Random) -> str:
    return rng.choice(
        (
            "Summarise the text in one sentence.",
            "Summarise this text in one sentence.",
            "Summarize the text in one sentence.",
            "Summarise the story.",
            "Summarise this.",
            "Summarize this.",
            "Give a one-sentence summary.",
            "Write a short summary of the text.",
            "What happens in the text? Answer in one sentence.",
            "Tell in one sentence what happened.",
        )
    )


def _summary_cue(rng: Random) -> str:
    return rng.choice(("Summary", "Summary", "Summary in one sentence", "Short summary"))


def merge(rng: Random) -> Task:
    """Two to four summaries into one."""
    count = rng.choice((2, 2, 2, 3, 4))
    summaries = [documents.draw_passage(rng).summary() for _ in range(count)]
    if count == 2 and rng.random() < 0.4:
        summaries[0] = merge_summaries([summaries[0], documents.draw_passage(rng).summary()])
    number = {2: "two summaries", 3: "three summaries", 4: "four summaries"}[count]
    wording = rng.choice(
        (
            f"Merge the {number} into one.",
            f"Merge these {number} into one sentence.",
            "Combine the summaries into one summary.",
            "Write one summary from these summaries.",
            f"Join the {number}.",
        )
    )
    label = rng.choice(("Summary {}: ", "{}. ", "- ", "", "Part {}: "))
    lines = [label.format(index) + summary for index, summary in enumerate(summaries, 1)]
    text = rng.choice(("\n", "\n", "\n\n")).join(lines)
    if rng.random() < 0.35:
        # A program joins the texts and asks for a summary: the same answer.
        return Task(
            "merge", _summary_wording(rng), merge_summaries(summaries), " ".join(summaries), _summary_cue(rng)
        )
    return Task("merge", wording, merge_summaries(summaries), text, rng.choice(("Summary", "Merged summary")))


def refine(rng: Random) -> Task:
    """A running summary and the next part of the text: the summary of both."""
    before = [documents.draw_passage(rng).summary() for _ in range(rng.choice((1, 1, 2, 3)))]
    part = documents.draw_passage(rng)
    running = merge_summaries(before)
    head, tail = rng.choice(
        (
            ("Summary so far", "Next part"),
            ("Summary", "New text"),
            ("Summary of the first part", "Second part"),
            ("Summary so far", "Text"),
        )
    )
    wording = rng.choice(
        (
            "Update the summary with the next part.",
            "Write the new summary.",
            "Extend the summary with the new text.",
            "Continue the summary.",
        )
    )
    text = f"{head}: {running}\n{tail}: {part.text}"
    if rng.random() < 0.4:
        both = merge_summaries([*before, part.summary()])
        return Task("refine", _summary_wording(rng), both, f"{running} {part.text}", _summary_cue(rng))
    return Task("refine", wording, merge_summaries([*before, part.summary()]), text, "New summary")


def list_names(rng: Random, tale: Tale) -> Task:
    wording = rng.choice(
        (
            "List the names in the text.",
            "Which names are in the text?",
            "List all the people.",
            "Name everybody in the text.",
            "Who is in the text?",
            "Who is in the story?",
        )
    )
    return Task("names", wording, ", ".join(tale.names()), tale.text, "Names")


def list_places(rng: Random, tale: Tale) -> Task:
    wording = rng.choice(
        (
            "List the places in the text.",
            "Which places are in the text?",
            "List all the places.",
            "Name every place.",
        )
    )
    return Task("places", wording, ", ".join(tale.place_names()) or UNKNOWN, tale.text, "Places")


def extract_json(rng: Random, tale: Tale) -> Task:
    found = {
        "names": tale.names(),
        "places": tale.place_names(),
        "things": sorted(tale.things, key=tale.text.find),
    }
    keys = rng.choice(
        (["names", "places"], ["names"], ["places"], ["names", "places", "things"], ["names", "things"])
    )
    fields = " and ".join([", ".join(keys[:-1]), keys[-1]] if len(keys) > 1 else keys)
    quoted = ", ".join(f'"{key}"' for key in keys)
    wording = rng.choice(
        (
            f"Extract the {fields} as JSON.",
            f"Extract {fields} as JSON.",
            f"Give me the {fields} of the text as JSON.",
            f"Write a JSON object with the keys {quoted}.",
            f"Return JSON with {quoted}.",
        )
    )
    answer = json.dumps({key: found[key] for key in keys}, ensure_ascii=False)
    return Task("json", wording, answer, tale.text, "JSON")


def give_title(rng: Random, tale: Tale) -> Task | None:
    if not tale.title:
        return None
    wording = rng.choice(
        (
            "Give the story a title.",
            "Find a title.",
            "What is a good title?",
            "Write a title for the text.",
            "Give it a title.",
            "Give it a title.",
        )
    )
    return Task("title", wording, tale.title, tale.text, "Title")


def check_claim(rng: Random, tale: Tale) -> Task | None:
    """Say whether a sentence about the text is right, and correct it when it is not."""
    true_claims = {claim.true for claim in tale.claims}
    claims = [
        claim for claim in tale.claims if claim.false not in true_claims and claim.false not in tale.text
    ]
    if not claims:
        return None
    claim = rng.choice(claims)
    right = rng.random() < 0.5
    said = claim.true if right else claim.false
    wording = rng.choice(
        (
            f"Is this right? {said}",
            f"Check this sentence: {said}",
            f"Review this claim: {said}",
            f"Somebody says: {said} Is that right?",
            f"Claim: {said} Is it true?",
            f"Is it true that {said[:-1]}?",
        )
    )
    return Task("claim", wording, "That is right." if right else f"No. {claim.true}", tale.text, "Answer")


def repeat(rng: Random, limit: int) -> Task:
    """A text to be said again. Of words in no order, where nothing but copying helps: copying is learnt from
    it. Or a text of the world, where the same names come again and the place in the text must be kept."""
    if rng.random() < 0.5:
        said = " ".join(_any_word(rng) for _ in range(rng.randint(3, 24)))
    else:
        said = documents.draw_text(rng, min(limit, 10)).text
    wording = rng.choice(("Repeat the text.", "Say it again.", "Repeat the words.", "Copy the text."))
    return Task("repeat", wording, said, said, rng.choice(("Text", "Copy", "Again")))


def _any_word(rng: Random) -> str:
    kinds = (
        world.GIRLS,
        world.BOYS,
        world.COLOURS,
        world.TREASURES,
        world.FOODS,
        world.ANIMALS,
        world.COUNTABLES,
    )
    roll = rng.random()
    if roll < 0.08:
        return world.invented_name(rng)
    if roll < 0.2:
        return world.draw_place(rng).there
    if roll < 0.35:
        return rng.choice(lumi.draw_sentence(rng).split())
    return rng.choice(rng.choice(kinds))


def translate(rng: Random) -> Task:
    english = " ".join(lumi.draw_sentence(rng) for _ in range(rng.choice((1, 1, 1, 2, 3))))
    if rng.random() < 0.55:
        wording = rng.choice(
            ("Translate into Lumi.", "Translate to Lumi.", "Translate the text into Lumi.", "Say it in Lumi.")
        )
        return Task("translate", wording, lumi.to_lumi(english), english, "Lumi")
    wording = rng.choice(
        (
            "Translate into English.",
            "Translate from Lumi to English.",
            "Translate the Lumi text into English.",
            "Say it in English.",
        )
    )
    return Task("translate", wording, english, lumi.to_lumi(english), "English")

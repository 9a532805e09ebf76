"""The generator's answers follow from its texts."""

from __future__ import annotations

import json
import re
from random import Random

import documents
import lumi
import make_data
import prompts
import pytest
import rewrites
import skills
import stories
from hypothesis import given, settings
from hypothesis import strategies as st
from tales import UNKNOWN, Tale

seeds = st.integers(min_value=0, max_value=2**32)
FIXED = (UNKNOWN, "That is right.")


def draw_text(seed: int, limit: int = 20) -> Tale:
    return documents.draw_text(Random(seed), limit)


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


@given(seeds)
def test_the_same_seed_and_chunk_give_the_same_examples(seed: int) -> None:
    rng, again = Random(seed), Random(seed)
    assert make_data.draw_example(rng, 20) == make_data.draw_example(again, 20)


@given(seeds)
def test_every_word_of_an_answer_stands_in_the_text_or_the_question(seed: int) -> None:
    tale = draw_text(seed)
    for question in tale.askable():
        known = words(tale.text) | words(question.text) | {"to", "because", "they", "a", "an"}
        assert words(question.answer) <= known, (question, tale.text)


@given(seeds)
def test_no_question_has_two_answers_in_one_text(seed: int) -> None:
    answers: dict[str, str] = {}
    for question in draw_text(seed).askable():
        assert answers.setdefault(question.key, question.answer) == question.answer


@given(seeds)
def test_a_question_that_the_text_does_not_answer_is_about_a_fact_it_does_not_tell(seed: int) -> None:
    rng = Random(seed)
    tale = documents.draw_text(rng, 12)
    task = skills.answer_question(rng, tale)
    if task and task.skill == "unknown":
        assert task.answer == UNKNOWN
        assert task.instruction not in {question.text for question in tale.questions}


@given(seeds)
def test_a_false_claim_is_never_also_true(seed: int) -> None:
    rng = Random(seed)
    tale = documents.draw_text(rng, 20)
    task = skills.check_claim(rng, tale)
    if task and task.answer != "That is right.":
        corrected = task.answer.removeprefix("No. ")
        assert corrected in {claim.true for claim in tale.claims}
        assert corrected not in task.instruction


@given(seeds)
def test_a_summary_names_nobody_who_is_not_in_the_text(seed: int) -> None:
    tale = documents.draw_story(Random(seed), 20)
    assert words(tale.summary()) <= words(tale.text) | {"and", "but", "bought", "they", "it"}


@given(seeds)
def test_a_merge_holds_every_summary_that_went_in(seed: int) -> None:
    task = skills.merge(Random(seed))
    for line in task.text.split("\n"):
        if line.endswith(".") and ": " not in line:
            assert line.split(". ")[-1].removesuffix(".").lstrip("- ") in task.answer


@given(seeds)
def test_extracted_json_parses_and_its_strings_stand_in_the_text(seed: int) -> None:
    rng = Random(seed)
    tale = documents.draw_text(rng, 20)
    found = json.loads(skills.extract_json(rng, tale).answer)
    assert all(string in tale.text for strings in found.values() for string in strings)


@given(seeds)
def test_a_name_that_was_replaced_is_gone_and_nothing_else_changed(seed: int) -> None:
    rng = Random(seed)
    tale = documents.draw_text(rng, 12)
    task = rewrites.rewrite_name(rng, tale)
    changed = {
        (old, new) for old, new in zip(task.text.split(), task.answer.split(), strict=True) if old != new
    }
    assert len({re.sub(r"\W", "", old) for old, _ in changed}) == 1
    assert len({re.sub(r"\W", "", new) for _, new in changed}) == 1


@given(seeds)
def test_a_story_holds_what_was_asked_for(seed: int) -> None:
    task, _ = stories.write_story(Random(seed))
    assert all(word in task.answer for word in task.must)


@given(seeds)
def test_a_cut_story_and_its_rest_are_the_whole_story(seed: int) -> None:
    prompt, rest = stories.open_story(Random(seed))
    assert rest.startswith(" ")
    assert not prompt.endswith(" ")


@given(seeds)
def test_lumi_translated_back_is_the_first_sentence(seed: int) -> None:
    english = lumi.draw_sentence(Random(seed))
    assert lumi.to_english(lumi.to_lumi(english)) == english


def test_lumi_has_one_word_for_one_word() -> None:
    assert len(set(lumi.DICTIONARY.values())) == len(lumi.DICTIONARY)


@given(seeds)
@settings(max_examples=300)
def test_every_example_ends_its_last_answer(seed: int) -> None:
    example = make_data.draw_example(Random(seed), 20)
    assert example.pieces[-1].is_answer
    assert example.pieces[-1].text.endswith(prompts.END)
    assert bool(example.messages) != bool(example.prompt)


@given(seeds)
def test_a_plain_prompt_and_its_answer_are_parted_by_one_blank(seed: int) -> None:
    rng = Random(seed)
    tale = documents.draw_story(rng, 10)
    example = prompts.plain(rng, skills.list_names(rng, tale))
    prompt, answer = example.pieces
    assert (prompt.text + answer.text)[len(prompt.text.rstrip()) :].lstrip() == answer.text.lstrip()
    assert prompt.text[-1].isspace() != answer.text[0].isspace()


@pytest.mark.parametrize("limit", [6, 12, 36])
def test_texts_keep_near_to_their_limit(limit: int) -> None:
    rng = Random(7)
    longest = max(len(documents.draw_text(rng, limit).sentences) for _ in range(300))
    assert longest <= limit + 4

"""The stream of examples: a function of (seed, chunk), so that training can stop and go on anywhere.

Run as a script it writes JSON lines to look at: `python make_data.py --chunks 1 --seed 1`.
Held-out worlds are the same stream from another seed. Leaves to others: tokens and batches (train.py).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from random import Random

import documents
import prompts
import rewrites
import skills
import smalltalk
import stories
from prompts import Example
from skills import Task
from tales import Tale

CHUNK = 512
HELD_OUT_SEED = 1_000_003

_ABOUT_TEXT: tuple[tuple[float, Callable[[Random, Tale], Task | None]], ...] = (
    (44.0, skills.answer_question),
    (3.0, skills.question_summary),
    (10.0, skills.summarise),
    (9.0, skills.list_names),
    (6.0, skills.list_places),
    (9.0, skills.extract_json),
    (3.0, skills.give_title),
    (12.0, skills.check_claim),
    (7.0, rewrites.review),
)
_REWRITES = (
    rewrites.rewrite_name,
    rewrites.rewrite_place,
    rewrites.rewrite_mood,
    rewrites.revise,
    rewrites.revise,
)


def examples(seed: int, chunk: int, limit: int) -> Iterator[Example]:
    """The `CHUNK` examples of a chunk, with texts of at most about `limit` sentences."""
    rng = Random(f"{seed}/{chunk}")
    for _ in range(CHUNK):
        yield draw_example(rng, limit)


def draw_example(rng: Random, limit: int) -> Example:
    kinds: tuple[tuple[float, Callable[[Random, int], Example]], ...] = (
        (60.0, _about_text),
        (22.0, _rewriting),
        (8.0, _summaries),
        (9.0, _story),
        (5.0, _continuing),
        (4.0, _translating),
        (5.0, _talking),
        (4.0, _out_of_world),
        (6.0, _repeating),
    )
    draw = rng.choices([kind for _, kind in kinds], [weight for weight, _ in kinds])[0]
    return draw(rng, limit)


def _in_some_form(rng: Random, task: Task) -> Example:
    return prompts.plain(rng, task) if rng.random() < 0.45 else prompts.chat(rng, [task])


def _about_text(rng: Random, limit: int) -> Example:
    """One question about a text, or a conversation of several: those teach most for the tokens they cost."""
    tale = documents.draw_text(rng, limit)
    wanted = 1 if rng.random() < 0.35 else rng.randint(2, 6)
    tasks: list[Task] = []
    while len(tasks) < wanted:
        task = _task_about(rng, tale)
        if task and (task.text == tale.text or not tasks):
            tasks.append(task)
            if task.text != tale.text:
                break
    if len(tasks) == 1:
        return _in_some_form(rng, tasks[0])
    several = rng.random() < 0.25
    return prompts.plain_several(rng, tasks) if several else prompts.chat(rng, tasks)


def _task_about(rng: Random, tale: Tale) -> Task | None:
    draw = rng.choices([skill for _, skill in _ABOUT_TEXT], [weight for weight, _ in _ABOUT_TEXT])[0]
    return draw(rng, tale)


def _rewriting(rng: Random, limit: int) -> Example:
    while True:
        tale = documents.draw_text(rng, min(limit, 12))
        if len(tale.sentences) > 12:
            continue
        task = rng.choice(_REWRITES)(rng, tale)
        if task:
            return _in_some_form(rng, task)


def _summaries(rng: Random, limit: int) -> Example:
    return _in_some_form(rng, rng.choice((skills.merge, skills.refine))(rng))


def _story(rng: Random, limit: int) -> Example:
    """A story on request, and in half of the chats questions about the story just written."""
    task, tale = stories.write_story(rng)
    if rng.random() < 0.45:
        return prompts.plain(rng, task)
    tasks = [task]
    while len(tasks) < 3 and rng.random() < 0.4:
        more = _task_about(rng, tale)
        if more and more.text == tale.text:
            tasks.append(Task(more.skill, more.instruction, more.answer))
    return prompts.chat(rng, tasks)


def _continuing(rng: Random, limit: int) -> Example:
    if rng.random() < 0.5:
        return prompts.opening(*stories.open_story(rng))
    return _in_some_form(rng, stories.continue_story(rng))


def _translating(rng: Random, limit: int) -> Example:
    return _in_some_form(rng, skills.translate(rng))


def _repeating(rng: Random, limit: int) -> Example:
    return _in_some_form(rng, skills.repeat(rng, limit))


def _talking(rng: Random, limit: int) -> Example:
    roll = rng.random()
    if roll < 0.15:
        return prompts.chat(rng, smalltalk.remember_name(rng))
    if roll < 0.3:
        return prompts.chat(rng, [smalltalk.talk(rng), smalltalk.talk(rng)])
    return _in_some_form(rng, smalltalk.talk(rng))


def _out_of_world(rng: Random, limit: int) -> Example:
    return _in_some_form(rng, smalltalk.out_of_world(rng))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--chunks", type=int, default=1, help=f"chunks of {CHUNK} examples")
    parser.add_argument("--limit", type=int, default=30, help="sentences in the longest texts, about")
    args = parser.parse_args()
    for chunk in range(args.chunks):
        for example in examples(args.seed, chunk, args.limit):
            print(json.dumps(asdict(example), ensure_ascii=False))


if __name__ == "__main__":
    main()

"""How good the model is, on worlds it was not trained on.

    python evaluate.py                                 through a server that is started for it
    python evaluate.py --url http://127.0.0.1:8000     through a server that runs already
    python evaluate.py --offline                       with `transformers` in this process

Prints a table: per skill the share of exactly right answers (stories: everything asked for is in them and
they end); a chain of five calls over a long document; how many stories differ; the perplexity of the answers.
Leaves to others: how answers are had (answerers.py), what is true (tales.py).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import documents
import world
from answerers import Answerer, Offline, Reply, Request, Served
from make_data import HELD_OUT_SEED, draw_example
from perplexity import perplexity
from prompts import Example, Message
from skills import question_in_summary
from tales import Question, Tale

OPEN_ENDED = ("story", "continue")
LONGEST_TEXT = 36
CHAIN_PARTS = 4
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Score:
    name: str
    right: int
    asked: int

    @property
    def share(self) -> float:
        return self.right / max(1, self.asked)


@dataclass(frozen=True, slots=True)
class Miss:
    skill: str
    asked: str
    wanted: str
    got: str


def held_out(per_skill: int, seed: int = HELD_OUT_SEED) -> list[Example]:
    """`per_skill` examples of each skill, in the mix of forms of the training."""
    rng = Random(f"{seed}/evaluation")
    found: dict[str, list[Example]] = defaultdict(list)
    for _ in range(per_skill * 120):
        example = draw_example(rng, LONGEST_TEXT)
        if len(found[example.task.skill]) < per_skill:
            found[example.task.skill].append(example)
    return [example for skill in sorted(found) for example in found[skill]]


def is_right(example: Example, reply: Reply) -> bool:
    if not reply.ended:
        return False
    if example.task.skill in OPEN_ENDED:
        return all(word in reply.text for word in example.task.must)
    return reply.text.strip() == example.task.answer.strip()


def score_skills(answerer: Answerer, per_skill: int) -> tuple[list[Score], list[Miss]]:
    examples = held_out(per_skill)
    replies = answerer.answer([Request(example.messages, example.prompt) for example in examples])
    right: dict[str, list[bool]] = defaultdict(list)
    misses = []
    for example, reply in zip(examples, replies, strict=True):
        good = is_right(example, reply)
        for name in (example.task.skill, "all, as chat" if example.messages else "all, as plain prompt"):
            right[name].append(good)
        if not good:
            asked = example.prompt or example.messages[-1].content
            misses.append(Miss(example.task.skill, asked, example.task.answer, reply.text))
    return [Score(name, sum(good), len(good)) for name, good in right.items()], misses


def score_chain(answerer: Answerer, count: int) -> Score:
    """Four calls carry a summary on through a document of twenty sentences; the fifth asks it a question."""
    rng = Random(f"{HELD_OUT_SEED}/chain")
    documents_ = [_chain_document(rng) for _ in range(count)]
    summaries = [""] * count
    for part in range(CHAIN_PARTS):
        prompts = [
            f"Text: {' '.join(filter(None, (summary, parts[part].text)))}\nSummary in one sentence:"
            for summary, (parts, _) in zip(summaries, documents_, strict=True)
        ]
        summaries = [
            reply.text.strip() for reply in answerer.answer([Request(prompt=prompt) for prompt in prompts])
        ]
    asked = [
        Request(prompt=f"Text: {summary}\nQuestion: {question.text}\nAnswer:")
        for summary, (_, question) in zip(summaries, documents_, strict=True)
    ]
    answers = answerer.answer(asked)
    right = [
        reply.text.strip() == question.answer
        for reply, (_, question) in zip(answers, documents_, strict=True)
    ]
    return Score("chain of five calls", sum(right), count)


def _chain_document(rng: Random) -> tuple[list[Tale], Question]:
    """Four episodes of one cast and a question that their summaries answer."""
    while True:
        cast = world.draw_cast(rng, 4)
        parts = [documents.draw_passage(rng, rng.sample(cast, 2)) for _ in range(CHAIN_PARTS)]
        whole = Tale(
            cast, parts[0].mood, questions=[question for part in parts for question in part.questions]
        )
        questions = [question for question in whole.askable() if question_in_summary(question)]
        if questions:
            return parts, rng.choice(questions)


def score_distinct(answerer: Answerer, count: int) -> Score:
    requests = [
        Request((Message("user", "Write a story."),), temperature=0.8, seed=seed) for seed in range(count)
    ]
    return Score(
        "distinct stories at temperature 0.8", len({r.text for r in answerer.answer(requests)}), count
    )


def table(scores: list[Score]) -> str:
    rows = [f"| {score.name} | {100 * score.share:.1f} % | {score.asked} |" for score in scores]
    return "\n".join(["| skill | right | asked |", "| --- | ---: | ---: |", *rows])


@contextmanager
def answering(args: argparse.Namespace) -> Iterator[Answerer]:
    """Whoever answers: the named server, `transformers`, or a server of the folder on a free port."""
    if args.url:
        yield Served(args.url)
    elif args.offline:
        yield Offline(args.folder, args.threads)
    else:
        sys.path.insert(0, str(ROOT))
        from bench.serving import serve

        with serve("--model", str(args.folder)) as server:
            yield Served(server.url)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="a running server; without it one is started")
    parser.add_argument("--offline", action="store_true", help="no server: transformers in this process")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    parser.add_argument("--per-skill", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--misses", type=Path, help="write the wrong answers there, as JSON lines")
    args = parser.parse_args()
    with answering(args) as answerer:
        scores, misses = score_skills(answerer, args.per_skill)
        scores.append(score_chain(answerer, args.per_skill))
        scores.append(score_distinct(answerer, args.per_skill))
    print(table(scores))
    print(f"\nperplexity of the answers' tokens: {perplexity(args.folder, LONGEST_TEXT):.3f}")
    if args.misses:
        lines = [json.dumps({name: getattr(miss, name) for name in miss.__slots__}) for miss in misses]
        args.misses.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

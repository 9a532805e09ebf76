"""Two agents: one writes, the other one reviews, the first one revises; twice over, and nobody waits in between."""

from __future__ import annotations

import asyncio

import parrot as P

WISHES = ("take place in the park", "be about Mia")


@P.semantic_function(
    sampling=P.Sampling(max_tokens=200, temperature=0.7, seed=3), transforms={"story": "strip"}
)
def write(topic: P.SemanticVariable):
    """Write a story about {{input:topic}}.
    Story: {{output:story}}
    """


@P.semantic_function(sampling=P.Sampling(max_tokens=40, temperature=0), transforms={"verdict": "strip"})
def review(wish: P.SemanticVariable, story: P.SemanticVariable):
    """Review the story. It should {{input:wish}}.
    Story: {{input:story}}
    Review: {{output:verdict}}
    """


@P.semantic_function(sampling=P.Sampling(max_tokens=200, temperature=0), transforms={"revised": "strip"})
def revise(story: P.SemanticVariable, verdict: P.SemanticVariable):
    """Story: {{input:story}}
    Review: {{input:verdict}}
    Revise the story.
    Revised story: {{output:revised}}
    """


async def main() -> None:
    async with P.Session():
        draft = story = write("a fox named Tom")
        verdicts = []
        for wish in WISHES:
            verdicts.append(review(wish, story))
            story = revise(story, verdicts[-1])
        print("draft:", await draft.aget())
        for verdict in verdicts:
            print("review:", await verdict.aget())
        print("final:", await story.aget())


if __name__ == "__main__":
    asyncio.run(main())

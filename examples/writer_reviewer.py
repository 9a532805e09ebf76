"""Two agents: one writes, the other one reviews, the first one writes again; asked for from a coroutine."""

from __future__ import annotations

import asyncio

import parrot as P


@P.semantic_function(sampling=P.Sampling(max_tokens=150, temperature=0.7, seed=1))
def write(topic: P.SemanticVariable):
    """Write a story about {{input:topic}}.
    Story: {{output:story}}
    """


@P.semantic_function(
    sampling={
        "who": P.Sampling(max_tokens=40, temperature=0, stop="\n"),
        "title": P.Sampling(max_tokens=40, temperature=0, stop="\n"),
    }
)
def review(story: P.SemanticVariable):
    """Text: {{input:story}}
    Question: Who is in the text?
    Answer: {{output:who}}
    Question: What is a good title?
    Answer: {{output:title}}
    """


@P.semantic_function(sampling=P.Sampling(max_tokens=150, temperature=0.7, seed=2))
def rewrite(topic: P.SemanticVariable, who: P.SemanticVariable, title: P.SemanticVariable):
    """Write a story about {{input:topic}} with {{input:who}} Its title is {{input:title}}.
    Story: {{output:story}}
    """


async def main() -> None:
    async with P.Session():
        topic = P.SemanticVariable("a dog and a cat")
        draft = write(topic)
        who, title = review(draft)
        final = rewrite(topic, who, title)
        print("draft:", await draft.aget())
        print("title:", await title.aget())
        print("final:", await final.aget())


if __name__ == "__main__":
    asyncio.run(main())

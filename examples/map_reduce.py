"""Many texts summarised at once, then one summary of them all.

Only the end is asked for: the server sees that the first calls are one stage, and runs them together.
"""

from __future__ import annotations

import parrot as P

TEXTS = [
    "A cat named Lily lived in the park. She found a green hat and was proud.",
    "A bear named Otto lost his kite near the river. He was sad, but a duck found it.",
    "A girl named Anna planted a tree in the garden. It grew tall, and Anna was glad.",
]


@P.semantic_function(sampling=P.Sampling(max_tokens=40, temperature=0), transforms={"summary": "strip"})
def summarise(text: P.SemanticVariable):
    """Text: {{input:text}}
    Summary in one sentence: {{output:summary}}
    """


@P.semantic_function(sampling=P.Sampling(max_tokens=40, temperature=0))
def merge(first: P.SemanticVariable, second: P.SemanticVariable, third: P.SemanticVariable):
    """Text: {{input:first}} {{input:second}} {{input:third}}
    Summary in one sentence: {{output:together}}
    """


def main() -> None:
    together = merge(*[summarise(text) for text in TEXTS])
    print(together.get())


if __name__ == "__main__":
    main()

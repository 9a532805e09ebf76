"""A long text, summarised part by part: every summary takes in the one before. The last one streams."""

from __future__ import annotations

import parrot as P

PARTS = [
    "Once upon a time a fox named Mira lived near a lake. One morning she found a red ball.",
    "Mira met an owl named Tom in the forest. Tom had lost his ball.",
    "Mira gave the ball to Tom. Tom was happy, and they went home together.",
]


@P.semantic_function(sampling=P.Sampling(max_tokens=60, temperature=0))
def begin(part: P.SemanticVariable):
    """Text: {{input:part}}
    Summary in one sentence: {{output:summary}}
    """


@P.semantic_function(sampling=P.Sampling(max_tokens=60, temperature=0))
def go_on(before: P.SemanticVariable, part: P.SemanticVariable):
    """Text: {{input:before}} {{input:part}}
    Summary in one sentence: {{output:summary}}
    """


def main() -> None:
    summary = begin(PARTS[0])
    for part in PARTS[1:]:
        summary = go_on(summary, part)
    for piece in summary.stream():
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    main()

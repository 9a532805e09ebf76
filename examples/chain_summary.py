"""A long text, summarised part by part: every summary takes in the one before. The last one streams."""

from __future__ import annotations

import parrot as P

PARTS = [
    "Once upon a time there was a fox named Mia. One morning Mia lost a red ball. "
    "She went to the park to look for it. In the park Mia met Tom, an owl. "
    "Tom found the red ball and gave it back to Mia.",
    "The next day Mia went to the town to buy cake. In the town Mia met Otto, a bear. "
    "Otto asked for some cake because he loved it. Mia shared the cake with Otto.",
    "One evening Mia found a blue kite on the hill. Mia gave the blue kite to Tom because he was sad.",
]


@P.semantic_function(sampling=P.Sampling(max_tokens=80, temperature=0))
def begin(part: P.SemanticVariable):
    """Text: {{input:part}}
    Summary in one sentence: {{output:summary}}
    """


@P.semantic_function(sampling=P.Sampling(max_tokens=80, temperature=0))
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

"""Many texts summarised at once, one summary of them all, and a question about it.

Only the end is asked for: the server sees that the first calls are one stage, and runs them together.
"""

from __future__ import annotations

import parrot as P

TEXTS = [
    "Lily was a cat. One morning Lily found a green hat in the park. "
    "Lily gave the green hat to Sam because he was cold.",
    "Otto was a bear. The next day Otto lost a red kite. He went to the river to look for it. "
    "At the river Otto met Daisy, a duck. Daisy found the red kite and gave it back to Otto.",
    "Anna was a pilot. One afternoon Anna went to the farm to buy milk. "
    "On the farm Anna met Leo, a lion. Leo asked for some milk because he loved it. "
    "Anna shared the milk with Leo.",
]


@P.semantic_function(sampling=P.Sampling(max_tokens=80, temperature=0), transforms={"summary": "strip"})
def summarise(text: P.SemanticVariable):
    """Text: {{input:text}}
    Summary in one sentence: {{output:summary}}
    """


@P.semantic_function(sampling=P.Sampling(max_tokens=80, temperature=0), transforms={"together": "strip"})
def merge(first: P.SemanticVariable, second: P.SemanticVariable, third: P.SemanticVariable):
    """Text: {{input:first}} {{input:second}} {{input:third}}
    Summary in one sentence: {{output:together}}
    """


@P.semantic_function(sampling=P.Sampling(max_tokens=20, temperature=0), transforms={"answer": "strip"})
def ask(text: P.SemanticVariable, question: str):
    """Text: {{input:text}}
    Question: {{input:question}}
    Answer: {{output:answer}}
    """


def main() -> None:
    together = merge(*[summarise(text) for text in TEXTS])
    question = "Who got the green hat?"
    answer = ask(together, question)
    print(together.get())
    print(question, answer.get())


if __name__ == "__main__":
    main()

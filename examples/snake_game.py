"""The paper's first program: two engineers, one after the other, in one exchange.

The small bundled model knows stories, not Python; what runs is the program.
"""

from __future__ import annotations

import parrot as P
from parrot.PerformanceCriteria import LATENCY


@P.SemanticFunction
def WritePythonCode(task: P.SemanticVariable):
    """You are an expert software engineer.
    Write python code of {{input:task}}.
    Code: {{output:code}}
    """


@P.SemanticFunction
def WriteTestCode(task: P.SemanticVariable, code: P.SemanticVariable):
    """You are an experienced QA engineer.
    You write test code for {{input:task}}.
    Code: {{input:code}}.
    Your test code: {{output:test}}
    """


def WriteSnakeGame():
    task = P.SemanticVariable("a snake game")
    code = WritePythonCode(task)
    test = WriteTestCode(task, code)
    return code.get(perf=LATENCY), test.get(perf=LATENCY)


if __name__ == "__main__":
    code, test = WriteSnakeGame()
    print(f"code: {code}\ntest: {test}")

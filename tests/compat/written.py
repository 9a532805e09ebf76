"""Outputs as a model would write them, in steps of a few characters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from compat.blocks import Blocks
from compat.openai.reasoning import Thinking
from compat.openai.tools.parsers import PARSERS, Named, Parser, Plain
from tests.compat.deltas import STEPS, Step

CALLS = (
    'Well.<tool_call>\n{"name": "add", "arguments": {"a": 1, "s": "}\\"<"}}\n</tool_call>\n'
    '<tool_call>{"name": "stop", "arguments": {}}</tool_call>'
)
THOUGHT = "<think>\nTwo and two\nis four.\n</think>\n\nFour it is, and not five."


def steps(text: str, finish: str = "stop", stop_reason: str | None = None, size: int = 9) -> tuple[Step, ...]:
    """A token each; the first finds four of the prompt's in the cache."""
    parts = [
        Step(text[at : at + size], (1,), cached_tokens=0 if at else 4) for at in range(0, len(text), size)
    ]
    return (*parts, Step(finish_reason=finish, stop_reason=stop_reason))


@dataclass(frozen=True, slots=True)
class Written:
    """An output and how it is read."""

    steps: tuple[Step, ...]
    parser: Callable[[], Parser] = Plain
    thinking: Thinking | None = None
    most_calls: int | None = None

    def blocks(self) -> Blocks:
        return Blocks(self.parser(), self.thinking, self.most_calls)


WRITTEN = {
    "text": Written(STEPS),
    "nothing": Written((Step(finish_reason="stop", cached_tokens=4),)),
    "cut": Written(steps("Once upon a time", "length")),
    "stopped": Written(steps("Once upon", "stop", "END")),
    "calls": Written(steps(CALLS), PARSERS["hermes"]),
    "one-call": Written(steps(CALLS), PARSERS["hermes"], most_calls=1),
    "named-call": Written(steps('{"a": 1}'), lambda: Named("add")),
    "cut-call": Written(steps('{"a": [1, 2', "length"), lambda: Named("add")),
    "thought": Written(steps(THOUGHT), thinking=Thinking()),
    "thought-and-call": Written(steps(THOUGHT + CALLS), PARSERS["hermes"], Thinking()),
    "hidden-thought": Written(steps(THOUGHT), thinking=Thinking(shown=False)),
    "cut-thought": Written(steps("so it is", "length"), thinking=Thinking(opened=True)),
}

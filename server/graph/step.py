"""One step of a transform: a function from text to text, and what it may cost at most.

Responsible for: the shape that every kind of step has. Costs are in nanoseconds of a slow core, estimated from
the text's size alone before anything is done, because what has begun cannot be stopped: the event loop waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Argument = str | int


class TransformError(Exception):
    """This text cannot be transformed; the message is the variable's error."""


@dataclass(frozen=True, slots=True)
class Step:
    """`run` raises TransformError. `size`: what it took to compile, in instructions of about a microsecond."""

    name: str
    run: Callable[[str], str]
    cost: Callable[[str], float]
    size: int = 50


def per_character(nanoseconds: float) -> Callable[[str], float]:
    return lambda text: nanoseconds * len(text)


def arguments(name: str, given: Sequence[Argument], *types: type) -> Sequence[Any]:
    """`given`, when it is of these types. Raises ValueError."""
    if [type(argument) for argument in given] != list(types):
        kinds = " and ".join("a number" if type_ is int else "a text in quotes" for type_ in types)
        raise ValueError(f"{name}: takes {kinds or 'no arguments'}")
    return given

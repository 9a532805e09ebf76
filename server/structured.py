"""Constraints on an output as grammars that an engine takes.

Responsible for: turning a `Constraint` into llguidance's form, checking it there with the library's own limits, and
refusing with the field's name what cannot be followed. A check takes well under a millisecond for what is common;
what is long is checked on a thread. Leaves to the engine: compiling for its vocabulary, and following.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from compat.openai import json_schema, structured
from compat.openai.errors import InvalidField
from compat.openai.structured import Constraint, Kind
from server.errors import BadRequest, TooLarge
from server.generation import GenerationParams

MAX_CHARACTERS = 65_536
MAX_GRAMMAR_CHARACTERS = 16_384
"""Of a client's own grammar: 28,000 of them took 1.4 s to compile, a schema of 50,000 a tenth of that."""

LONG = 2_000
"""Characters from which a grammar is checked on a thread; the library releases the GIL."""

_WHITESPACE = r"\x20|\n\x20{0,24}"
"""Between the tokens of JSON: nothing, a space, or a new line that is indented. Without a bound, a model that likes
blanks never ends."""


_WORDS: dict[Kind, str] = {
    "json_schema": "schema",
    "regex": "expression",
    "choice": "list",
    "grammar": "grammar",
    "calls": "schema",
}


async def grammar(constraint: Constraint) -> str:
    """Raises BadRequest, TooLarge."""
    if len(constraint.text) < LONG:
        return checked(constraint)
    return await asyncio.to_thread(checked, constraint)


def checked(constraint: Constraint) -> str:
    """As `grammar`, at once."""
    most = MAX_GRAMMAR_CHARACTERS if constraint.kind == "grammar" else MAX_CHARACTERS
    if len(constraint.text) > most:
        raise TooLarge(f"It may have at most {most} characters.", param=constraint.param)
    from llguidance import LLMatcher, LLParserLimits  # only for who asks for it

    try:
        found = _grammar(constraint)
        wrong, messages = LLMatcher.validate_grammar_with_warnings(
            found, limits=LLParserLimits(verbose_errors=False)
        )
    except Exception as error:  # the library's grammar converter raises plain ones
        raise _refused(constraint, str(error)) from error
    if wrong:
        raise _refused(constraint, messages[0])
    return found


def of_format(format: Mapping[str, Any], param: str) -> str | None:
    """A semantic variable's `format`. Raises BadRequest, TooLarge."""
    try:
        constraint = structured.of_format(format, param)
    except InvalidField as error:
        raise BadRequest(str(error), param=error.param, code=error.code) from error
    return None if constraint is None else checked(constraint)


def constrained(params: GenerationParams, grammar: str | None, prefix: str = "") -> GenerationParams:
    """With the grammar, which alone says where the output ends. Raises BadRequest for what contradicts that."""
    if grammar is None:
        return params
    for name in ("ignore_eos", "min_tokens"):
        if getattr(params.sampling, name):
            raise BadRequest(
                f"{name} cannot be combined with structured output, which ends where its grammar does.",
                param=prefix + name,
            )
    return replace(params, sampling=msgspec.structs.replace(params.sampling, grammar=grammar))


def _grammar(constraint: Constraint) -> str:
    """Raises ValueError."""
    from llguidance import LLMatcher
    from llguidance.gbnf_to_lark import any_to_lark

    match constraint.kind:
        case "json_schema":
            schema = json.dumps(json_schema.prepared(json.loads(constraint.text)), ensure_ascii=False)
            return LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": _WHITESPACE})
        case "regex":
            return LLMatcher.grammar_from_regex(constraint.text)
        case "choice":
            choices = json.loads(constraint.text)
            return LLMatcher.grammar_from_lark("start: " + " | ".join(_quoted(choice) for choice in choices))
        case "calls":
            return LLMatcher.grammar_from_lark(constraint.text)
    return LLMatcher.grammar_from_lark(any_to_lark(constraint.text))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _refused(constraint: Constraint, message: str) -> BadRequest:
    return BadRequest(
        f"This {_WORDS[constraint.kind]} cannot be followed: {json_schema.explained(message.strip()[:500])}",
        param=constraint.param,
        code="invalid_grammar",
    )

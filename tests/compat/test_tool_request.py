"""Which parser reads an output: the server's flag says it, or the chat template."""

from __future__ import annotations

import json
from typing import Literal, get_args

import msgspec
import pytest

from compat.openai.chat import ChatRequest
from compat.openai.tools import request as tools
from compat.openai.tools.parsers import PARSERS, Format, Listed, Marked
from server.config import ToolCallParser
from server.flags import parse_config

HERMES = "{% if tools %}<tool_call>{% endif %}"


def asking(**fields: object) -> ChatRequest:
    body = {
        "messages": [{"role": "user", "content": "x"}],
        "tools": [{"function": {"name": "f"}}],
    }
    return msgspec.json.decode(json.dumps(body | fields), type=ChatRequest)


def test_auto_asks_the_template_and_a_template_that_knows_no_tools_has_no_parser() -> None:
    made = tools.parser(asking(), HERMES)
    assert made is not None
    assert isinstance(made(), Marked)
    assert tools.parser(asking(), "{{ messages }}") is None


@pytest.mark.parametrize("format", PARSERS)
def test_a_flag_wins_over_the_template(format: Format) -> None:
    assert tools.parser(asking(), HERMES, format) is PARSERS[format]
    assert tools.parser(asking(), HERMES, "none") is None


@pytest.mark.parametrize("format", ["none", "hermes"])
def test_a_demanded_call_is_read_as_the_constraint_has_it_whatever_the_flag(
    format: Literal["none", "hermes"],
) -> None:
    assert tools.parser(asking(tool_choice="required"), HERMES, format) is Listed
    assert tools.parser(asking(tool_choice="none"), HERMES, format) is None


def test_every_parser_has_its_flag() -> None:
    assert {*get_args(ToolCallParser)} == {"auto", "none", *PARSERS}
    assert parse_config(["--tool-call-parser", "mistral"]).tool_call_parser == "mistral"
    assert parse_config(["--reasoning-parser", "think"]).reasoning_parser == "think"
    assert (parse_config([]).tool_call_parser, parse_config([]).reasoning_parser) == ("auto", "auto")

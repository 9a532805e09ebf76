"""LlamaIndex's `OpenAILike` against a running server: `python llama_index_program.py URL MODEL`."""

import asyncio
import sys
from typing import Literal

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

settings = {
    "api_base": f"{sys.argv[1]}/v1",
    "api_key": "none",
    "model": sys.argv[2],
    "temperature": 0,
    "max_tokens": 60,
}
llm = OpenAILike(**settings, is_chat_model=True, is_function_calling_model=True, context_window=4096)
hello = [ChatMessage(role="user", content="Hello, who are you?")]

answer = llm.chat(hello).message.content
assert answer
assert "".join(part.delta or "" for part in llm.stream_chat(hello)) == answer
assert llm.complete("Once upon a time").text


async def in_a_loop() -> None:
    assert (await llm.achat(hello)).message.content == answer
    assert "".join([part.delta or "" async for part in await llm.astream_chat(hello)]) == answer


asyncio.run(in_a_loop())

plain = OpenAILike(**settings, is_chat_model=False, context_window=4096)
assert plain.complete("Once upon a time").text == "".join(
    part.delta or "" for part in plain.stream_complete("Once upon a time")
)


def legs(kind: Literal["fox", "owl"]) -> str:
    """How many legs an animal has."""
    return "4" if kind == "fox" else "2"


counted = llm.predict_and_call(
    [FunctionTool.from_defaults(legs)], "How many legs has a fox?", tool_required=True
)
assert str(counted) in ("2", "4"), counted


class Animal(BaseModel):
    kind: Literal["fox", "owl"]


structured = OpenAILike(
    **settings, is_chat_model=True, should_use_structured_outputs=True, context_window=4096
)
assert structured.as_structured_llm(Animal).complete("A fox.").raw.kind in ("fox", "owl")

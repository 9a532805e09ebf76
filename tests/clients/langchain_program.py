"""LangChain's `ChatOpenAI` against a running server: `python langchain_program.py URL`."""

from __future__ import annotations

import asyncio
import sys
from typing import Literal

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

base_url = f"{sys.argv[1]}/v1"
llm = ChatOpenAI(base_url=base_url, api_key="none", model=sys.argv[2], temperature=0, max_tokens=200)
hello = "Hello, who are you?"

answer = llm.invoke(hello)
assert answer.content
assert answer.usage_metadata["output_tokens"] > 0

chunks = list(llm.stream(hello))
assert len(chunks) > 2
assert "".join(chunk.content for chunk in chunks) == answer.content

batch = llm.batch([hello, "What can you do?", hello])
assert [one.content for one in batch][::2] == [answer.content] * 2


async def in_a_loop() -> None:
    assert (await llm.ainvoke(hello)).content == answer.content
    assert "".join([chunk.content async for chunk in llm.astream(hello)]) == answer.content


asyncio.run(in_a_loop())


class Animal(BaseModel):
    kind: Literal["fox", "owl"]
    legs: Literal[2, 4]


for method in ("json_schema", "function_calling"):
    animal = llm.with_structured_output(Animal, method=method).invoke("A fox has four legs.")
    assert isinstance(animal, Animal), (method, animal)


@tool
def look_up(kind: Literal["fox", "owl"]) -> str:
    """How many legs an animal has."""
    return "4" if kind == "fox" else "2"


called = llm.bind_tools([look_up], tool_choice="look_up").invoke("How many legs has a fox?")
(call,) = called.tool_calls
assert call["name"] == "look_up"
result = look_up.invoke(call)
again = llm.bind_tools([look_up]).invoke([("user", "How many legs has a fox?"), called, result])
assert again.type == "ai"

streamed = list(llm.bind_tools([look_up], tool_choice="look_up").stream("How many legs has a fox?"))
whole = streamed[0]
for chunk in streamed[1:]:
    whole += chunk
assert [(one["name"], one["args"]) for one in whole.tool_calls] == [(call["name"], call["args"])]

plain = OpenAI(base_url=base_url, api_key="none", model=sys.argv[2], temperature=0, max_tokens=20)
assert plain.invoke("Once upon a time")
assert llm.bind(logprobs=True, top_logprobs=2).invoke(hello).response_metadata["logprobs"]["content"]

responses = ChatOpenAI(
    base_url=base_url,
    api_key="none",
    model=sys.argv[2],
    temperature=0,
    max_tokens=200,
    use_responses_api=True,
)
assert responses.invoke(hello).text == answer.content

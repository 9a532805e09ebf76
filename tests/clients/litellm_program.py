"""LiteLLM against a running server: `python litellm_program.py URL MODEL`."""

from __future__ import annotations

import asyncio
import json
import sys

import litellm

where = {"api_base": f"{sys.argv[1]}/v1", "api_key": "none", "temperature": 0, "max_tokens": 60}
model = f"openai/{sys.argv[2]}"
messages = [{"role": "user", "content": "Hello, who are you?"}]

answer = litellm.completion(model, messages, **where)
said = answer.choices[0].message.content
assert said
assert answer.usage.completion_tokens > 0

chunks = litellm.completion(model, messages, stream=True, stream_options={"include_usage": True}, **where)
parts = list(chunks)
assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == said


async def in_a_loop() -> None:
    several = await asyncio.gather(*(litellm.acompletion(model, messages, **where) for _ in range(4)))
    assert {one.choices[0].message.content for one in several} == {said}


asyncio.run(in_a_loop())

number = {
    "type": "object",
    "properties": {"n": {"enum": [1, 2]}},
    "required": ["n"],
    "additionalProperties": False,
}
shaped = litellm.completion(
    model,
    messages,
    response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": number, "strict": True}},
    **where,
)
assert json.loads(shaped.choices[0].message.content)["n"] in (1, 2)

tool = {"type": "function", "function": {"name": "count", "parameters": number}}
called = litellm.completion(
    model, messages, tools=[tool], tool_choice={"type": "function", "function": {"name": "count"}}, **where
)
assert called.choices[0].message.tool_calls[0].function.name == "count"

text = litellm.text_completion("Once upon a time", f"text-completion-openai/{sys.argv[2]}", **where)
assert text.choices[0].text

try:
    litellm.completion("openai/nobody", messages, **where)
except litellm.NotFoundError:
    pass
else:
    raise AssertionError("an unknown model was served")

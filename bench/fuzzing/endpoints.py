"""What there is to ask: every endpoint with the type of its body, a body that it takes, and its query's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from compat.anthropic.messages import CountRequest, MessagesRequest
from compat.openai.chat import ChatRequest
from compat.openai.completions import CompletionRequest
from compat.openai.responses import ResponseRequest
from compat.openai.tokenize import DetokenizeRequest, TokenizeRequest
from parrot import wire

SAMPLING = {"max_tokens": 2}
MESSAGES = [{"role": "user", "content": "Hi"}]
CALL = {"prompt": "Once {{input:v}} {{output:a}}", "placeholders": [{"name": "a", "sampling": SAMPLING}]}
NEW_CALL = {"prompt": "Once {{output:a}}", "placeholders": [{"name": "a", "semantic_var_id": "@new@"}]}
SESSION = "/v1/sessions/@session@"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`weight`: how often it is chosen, against the others."""

    method: str
    path: str
    type: type[msgspec.Struct] | None = None
    base: Mapping[str, Any] = field(default_factory=dict)
    query: tuple[str, ...] = ()
    weight: int = 1


ENDPOINTS = (
    Endpoint("POST", "/v1/completions", CompletionRequest, {"prompt": "Once", **SAMPLING}, weight=8),
    Endpoint(
        "POST",
        "/v1/chat/completions",
        ChatRequest,
        {"messages": MESSAGES, **SAMPLING},
        weight=8,
    ),
    Endpoint("POST", "/v1/responses", ResponseRequest, {"input": "Hi", "max_output_tokens": 16}, weight=8),
    Endpoint("GET", "/v1/responses/@response@", query=("stream", "starting_after", "include")),
    Endpoint("GET", "/v1/responses/@response@/input_items", query=("order", "limit", "after")),
    Endpoint("DELETE", "/v1/responses/@response@"),
    Endpoint("POST", "/v1/responses/@response@/cancel"),
    Endpoint("POST", "/v1/messages", MessagesRequest, {"messages": MESSAGES, **SAMPLING}, weight=8),
    Endpoint("POST", "/v1/messages/count_tokens", CountRequest, {"messages": MESSAGES}, weight=2),
    Endpoint("POST", "/tokenize", TokenizeRequest, {"prompt": "Once"}, weight=2),
    Endpoint("POST", "/detokenize", DetokenizeRequest, {"tokens": [400, 401]}, weight=2),
    Endpoint("POST", "/v1/requests/fuzz/cancel"),
    Endpoint("GET", "/v1/models"),
    Endpoint("GET", "/v1/models/unknown"),
    Endpoint(
        "POST", "/v1/programs", wire.ProgramRequest, {"calls": [CALL], "variables": {"v": "x"}}, weight=8
    ),
    Endpoint("GET", "/v1/programs/@program@", query=("stream", "wait")),
    Endpoint("DELETE", "/v1/programs/@program@"),
    Endpoint("POST", "/v1/sessions", wire.SessionRequest, {"ttl": 1}, weight=2),
    Endpoint("GET", "/v1/sessions"),
    Endpoint("GET", SESSION),
    Endpoint("DELETE", "/v1/sessions/@spare@"),
    Endpoint("POST", SESSION + "/calls", wire.Call, NEW_CALL, weight=4),
    Endpoint("POST", SESSION + "/calls", wire.SubmitRequest, {"calls": [NEW_CALL]}, weight=2),
    Endpoint("GET", SESSION + "/calls/@call@"),
    Endpoint("DELETE", SESSION + "/calls/@call@"),
    Endpoint("GET", SESSION + "/variables"),
    Endpoint("PUT", SESSION + "/variables/@new@", wire.SetRequest, {"value": "x"}, weight=2),
    Endpoint("GET", SESSION + "/variables/@variable@", query=("criteria", "wait", "stream"), weight=2),
    Endpoint("GET", SESSION + "/variables/a", query=("criteria", "wait", "stream"), weight=2),
    Endpoint("POST", SESSION + "/get", wire.GetRequest, {"variables": ["v"], "wait": 0}, weight=3),
    Endpoint("GET", SESSION + "/graph", query=("format",)),
    Endpoint("GET", SESSION + "/trace"),
    Endpoint("POST", "/v1/submit", wire.PaperSubmit, {**NEW_CALL, "session_id": "@session@"}, weight=2),
    Endpoint(
        "POST",
        "/v1/get",
        wire.PaperGet,
        {"semantic_var_id": "@variable@", "session_id": "@session@", "wait": 0},
        weight=2,
    ),
    Endpoint("GET", "/v1/admin/story/@session@"),
    Endpoint("GET", "/health"),
    Endpoint("GET", "/health/ready"),
    Endpoint("GET", "/ping"),
    Endpoint("GET", "/metrics"),
    Endpoint("GET", "/version"),
    Endpoint("GET", "/docs"),
    Endpoint("GET", "/openapi.json"),
    Endpoint("GET", "/"),
)

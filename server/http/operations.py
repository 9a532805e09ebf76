"""Every endpoint in a table: what it takes and what it answers, as the published schema says.

Responsible for: one row for each route that is registered (a test compares). The types are those that requests are
decoded with; answers that are written by hand have types of their own in `compat.openai.answers`.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from compat.anthropic.messages import CountRequest, MessagesRequest
from compat.openai import answers
from compat.openai.chat import ChatRequest
from compat.openai.completions import CompletionRequest
from compat.openai.responses import ResponseRequest
from compat.openai.tokenize import DetokenizeRequest, TokenizeRequest
from parrot import wire
from server.http.answers import (
    AssistantMessage,
    Health,
    Index,
    InputTokens,
    MessageEvent,
    Ready,
    ResponseEvent,
    SessionList,
    Story,
    VariableList,
    Version,
)

Type = type[msgspec.Struct]


@dataclass(frozen=True, slots=True)
class Query:
    """A member of the query: its JSON type, and what it means."""

    name: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Operation:
    """`takes`: the body, one of these types. `gives`: by status; a text is a media type without a schema.

    `streams`: the types of the data of server-sent events, where a client may ask for them.
    """

    method: str
    path: str
    summary: str
    tag: str
    gives: dict[int, Type | str]
    takes: tuple[Type, ...] = ()
    streams: tuple[Type, ...] = ()
    query: tuple[Query, ...] = ()
    open: bool = False  # without an API key


_WAIT = Query("wait", "number", "Seconds to wait for what is not there yet, 0 to 300.")
_STREAM = Query("stream", "boolean", "Answer with server-sent events.")
_CRITERIA = Query("criteria", "string", "latency, throughput, or limits like ttft_ms:200,tpot_ms:40.")
_AFTER = Query("starting_after", "integer", "With stream: only events with a greater sequence_number.")
_INCLUDE = Query("include", "string", "Has no effect: an answer has what it was created with.")
_PAGE = (
    Query("order", "string", "desc, which is the default, or asc."),
    Query("limit", "integer", "How many, 1 to 100; 20 by default."),
    Query("after", "string", "Begin behind the item of this id."),
)
_FORM = Query("format", "string", "json, dot or mermaid.")

OPENAI = (
    Operation("GET", "/v1/models", "The models that are served", "OpenAI", {200: answers.ModelList}),
    Operation("GET", "/v1/models/{model}", "One of them", "OpenAI", {200: answers.Model}),
    Operation(
        "POST",
        "/v1/completions",
        "Continue prompts",
        "OpenAI",
        {200: answers.Completion},
        (CompletionRequest,),
        (answers.Completion,),
    ),
    Operation(
        "POST",
        "/v1/chat/completions",
        "Continue a conversation",
        "OpenAI",
        {200: answers.ChatCompletion},
        (ChatRequest,),
        (answers.ChatCompletionChunk,),
    ),
    Operation(
        "POST",
        "/v1/requests/{id}/cancel",
        "End a running request, by its own id or that of its answer",
        "OpenAI",
        {200: answers.Cancelled},
    ),
    Operation(
        "POST", "/tokenize", "Text to token ids", "OpenAI", {200: answers.Tokenized}, (TokenizeRequest,)
    ),
    Operation(
        "POST", "/detokenize", "Token ids to text", "OpenAI", {200: answers.Detokenized}, (DetokenizeRequest,)
    ),
    Operation(
        "POST",
        "/v1/responses",
        "Create a response",
        "Responses",
        {200: answers.ResponseObject},
        (ResponseRequest,),
        (ResponseEvent,),
    ),
    Operation(
        "GET",
        "/v1/responses/{id}",
        "A response that was stored",
        "Responses",
        {200: answers.ResponseObject},
        streams=(ResponseEvent,),
        query=(_STREAM, _AFTER, _INCLUDE),
    ),
    Operation(
        "DELETE",
        "/v1/responses/{id}",
        "Forget a response",
        "Responses",
        {200: answers.ResponseDeleted},
    ),
    Operation(
        "POST",
        "/v1/responses/{id}/cancel",
        "End a response that runs in the background",
        "Responses",
        {200: answers.ResponseObject},
    ),
    Operation(
        "GET",
        "/v1/responses/{id}/input_items",
        "What a response was asked",
        "Responses",
        {200: answers.ResponseItems},
        query=_PAGE,
    ),
    Operation(
        "POST",
        "/v1/messages",
        "Continue a conversation in Anthropic's shape",
        "Messages",
        {200: AssistantMessage},
        (MessagesRequest,),
        (MessageEvent,),
    ),
    Operation(
        "POST",
        "/v1/messages/count_tokens",
        "How many tokens a conversation has",
        "Messages",
        {200: InputTokens},
        (CountRequest,),
    ),
)

_SESSION = "/v1/sessions/{session}"
_EVENTS: tuple[Type, ...] = (
    wire.ProgramCreated,
    wire.CallStarted,
    wire.CallFinished,
    wire.VariableDelta,
    wire.VariableReady,
    wire.VariableFailed,
    wire.VariablePending,
    wire.ProgramDone,
)
_OF_ONE: tuple[Type, ...] = (
    wire.VariableDelta,
    wire.VariableReady,
    wire.VariableFailed,
    wire.VariablePending,
)
_VALUES: dict[int, Type | str] = {200: wire.ValuesAnswer, 202: wire.ValuesAnswer, 424: wire.ValuesAnswer}
_VALUE: dict[int, Type | str] = {200: wire.VariableInfo, 202: wire.VariableInfo, 424: wire.VariableInfo}

SEMANTIC = (
    Operation(
        "POST",
        "/v1/programs",
        "Run a whole program",
        "Programs",
        _VALUES,
        (wire.ProgramRequest,),
        _EVENTS,
    ),
    Operation(
        "GET",
        "/v1/programs/{program}",
        "What a program has come to",
        "Programs",
        _VALUES,
        streams=_EVENTS,
        query=(_WAIT, _STREAM),
    ),
    Operation("DELETE", "/v1/programs/{program}", "Cancel a program", "Programs", {200: wire.ValuesAnswer}),
    Operation(
        "POST", "/v1/sessions", "Open a session", "Sessions", {201: wire.SessionInfo}, (wire.SessionRequest,)
    ),
    Operation("GET", "/v1/sessions", "Your sessions", "Sessions", {200: SessionList}),
    Operation("GET", _SESSION, "One of them", "Sessions", {200: wire.SessionInfo}),
    Operation("DELETE", _SESSION, "End a session and all that it runs", "Sessions", {200: wire.Deleted}),
    Operation(
        "POST",
        _SESSION + "/calls",
        "Submit one call or several",
        "Sessions",
        {201: wire.SubmitAnswer},
        (wire.Call, wire.SubmitRequest),
    ),
    Operation(
        "GET",
        _SESSION + "/calls/{call}",
        "State, timing and usage of a call",
        "Sessions",
        {200: wire.CallInfo},
    ),
    Operation("DELETE", _SESSION + "/calls/{call}", "Cancel a call", "Sessions", {200: wire.CallInfo}),
    Operation("GET", _SESSION + "/variables", "The session's variables", "Sessions", {200: VariableList}),
    Operation(
        "PUT",
        _SESSION + "/variables/{ref}",
        "Set a variable, once",
        "Sessions",
        {200: wire.VariableInfo, 201: wire.VariableInfo},
        (wire.SetRequest,),
    ),
    Operation(
        "GET",
        _SESSION + "/variables/{ref}",
        "Get a variable",
        "Sessions",
        _VALUE,
        streams=_OF_ONE,
        query=(_CRITERIA, _WAIT, _STREAM),
    ),
    Operation("POST", _SESSION + "/get", "Get several variables", "Sessions", _VALUES, (wire.GetRequest,)),
    Operation(
        "GET",
        _SESSION + "/graph",
        "The graph of calls and variables",
        "Sessions",
        {200: "application/json"},
        query=(_FORM,),
    ),
    Operation(
        "GET", _SESSION + "/trace", "A timeline that Perfetto opens", "Sessions", {200: "application/json"}
    ),
    Operation(
        "POST",
        "/v1/submit",
        "The paper's submit",
        "Sessions",
        {201: wire.PaperSubmitAnswer},
        (wire.PaperSubmit,),
    ),
    Operation("POST", "/v1/get", "The paper's get", "Sessions", _VALUE, (wire.PaperGet,)),
)

OPERATIONS = (
    Operation("GET", "/", "What this is, and where to go", "Operations", {200: Index}),
    Operation("GET", "/docs", "A page that shows this document", "Operations", {200: "text/html"}),
    Operation("GET", "/openapi.json", "This document", "Operations", {200: "application/json"}),
    Operation("GET", "/health", "Liveness", "Operations", {200: Health, 503: Health}, open=True),
    Operation("GET", "/ping", "Liveness", "Operations", {200: Health, 503: Health}, open=True),
    Operation("GET", "/health/ready", "Readiness", "Operations", {200: Ready, 503: Ready}, open=True),
    Operation("GET", "/metrics", "Prometheus metrics", "Operations", {200: "text/plain"}),
    Operation("GET", "/version", "The server's version", "Operations", {200: Version}),
    Operation(
        "GET",
        "/v1/admin/story/{id}",
        "What happened to the tasks of a session or a request",
        "Operations",
        {200: Story},
    ),
)

ALL = (*OPENAI, *SEMANTIC, *OPERATIONS)

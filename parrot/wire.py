"""The extension API's shapes, used by both ends: the server decodes with them, the SDK encodes with them.

Responsible for: field names, types, and which of them may be absent (null means absent everywhere). What a
value must satisfy beyond its type is checked by the server, which answers with an error that names the field.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Struct(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Every message: immutable, keyword-only, defaults left out on the wire."""


class Complete(Struct, frozen=True, kw_only=True, omit_defaults=False):
    """A part of an answer that always says all of its members, also what is 0, empty or null."""


class Asked(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of what a client sends: a member that does not exist is an error, so that a misspelt one is seen.

    Answers are read leniently: a client goes on with a server that says more."""


class Limits(Asked, frozen=True, kw_only=True):
    """A criterion as numbers, in milliseconds: time to first token, time per token, completion from now."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    deadline_ms: float | None = None


Criteria = str | Limits
"""`latency`, `throughput`, `ttft_ms:200,tpot_ms:40`, or `Limits`."""


class Sampling(Asked, frozen=True, kw_only=True):
    """How an output is generated. Absent: the model's generation config, else OpenAI's default."""

    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    n: int | None = None


class Placeholder(Asked, frozen=True, kw_only=True):
    """Binds an `{{input:name}}` or `{{output:name}}` of a prompt. `in_out`: the paper's true is an output."""

    name: str
    in_out: Literal["in", "out"] | bool | None = None
    value: str | None = None
    semantic_var_id: str | None = None
    transforms: str | None = None
    sampling: Sampling | None = None
    format: dict[str, Any] | None = None


class ContentPart(Asked, frozen=True, kw_only=True):
    type: str
    text: str | None = None


class Message(Asked, frozen=True, kw_only=True):
    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None


class Call(Asked, frozen=True, kw_only=True):
    """One templated LLM call: exactly one of `prompt` and `messages`."""

    prompt: str | None = None
    messages: list[Message] | None = None
    placeholders: list[Placeholder] | None = None
    model: str | None = None
    criteria: Criteria | None = None
    share: Literal["tenant", "public"] | None = None


class ProgramRequest(Asked, frozen=True, kw_only=True):
    """POST /v1/programs. `get` absent: every output that nothing consumes."""

    calls: list[Call]
    variables: dict[str, str] | None = None
    get: dict[str, Criteria | None] | list[str] | None = None
    wait: float | None = None
    stream: bool | None = None
    session_id: str | None = None
    model: str | None = None


class SessionRequest(Asked, frozen=True, kw_only=True):
    ttl: float | None = None
    model: str | None = None
    metadata: dict[str, str] | None = None


class SubmitRequest(Asked, frozen=True, kw_only=True):
    """POST /v1/sessions/{s}/calls when several calls come at once."""

    calls: list[Call]


class SetRequest(Asked, frozen=True, kw_only=True):
    value: str


class GetRequest(Asked, frozen=True, kw_only=True):
    """POST /v1/sessions/{s}/get."""

    variables: dict[str, Criteria | None] | list[str]
    wait: float | None = None


class PaperSubmit(Asked, frozen=True, kw_only=True):
    """POST /v1/submit: the paper's body to the letter."""

    prompt: str
    session_id: str
    placeholders: list[Placeholder] | None = None


class PaperGet(Asked, frozen=True, kw_only=True):
    """POST /v1/get: the paper's body to the letter."""

    semantic_var_id: str
    session_id: str
    criteria: Criteria | None = None
    wait: float | None = None


class ErrorInfo(Complete, frozen=True, kw_only=True):
    """OpenAI's error object, whose clients index all four members. `param` names the field."""

    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None


class ErrorBody(Struct, frozen=True, kw_only=True):
    error: ErrorInfo


class Cause(Struct, frozen=True, kw_only=True):
    """One link of a failure's chain, nearest first."""

    variable: str
    message: str
    call: str | None = None


class VariableError(Complete, frozen=True, kw_only=True):
    """`type` says what failed first: the server (`server_error`), or what the client asked for."""

    message: str
    type: str = "invalid_request_error"
    code: str
    cause: list[Cause] = []


VariableState = Literal["empty", "pending", "running", "ready", "failed", "cancelled"]


class VariableInfo(Struct, frozen=True, kw_only=True):
    """`value` only when ready, `error` only when failed or cancelled, `reason` why it is not ready yet."""

    id: str
    name: str
    state: VariableState
    value: str | None = None
    error: VariableError | None = None
    reason: str | None = None
    producer: str | None = None
    consumers: list[str]


class Usage(Complete, frozen=True, kw_only=True):
    """`cached_tokens`: prompt tokens that were not computed. Sums over the calls."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0


class Timing(Struct, frozen=True, kw_only=True):
    """Seconds since the epoch for points, milliseconds for spans."""

    created: float
    started: float | None = None
    finished: float | None = None
    queued_ms: float | None = None
    run_ms: float | None = None


class CallHandle(Complete, frozen=True, kw_only=True):
    id: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    warnings: list[str] = []


class SubmitAnswer(Struct, frozen=True, kw_only=True):
    calls: list[CallHandle]


class PaperBinding(Struct, frozen=True, kw_only=True):
    """One of the paper's placeholders, and the variable it was bound to. `in_out`: true is an output."""

    name: str
    in_out: bool
    semantic_var_id: str


class PaperSubmitAnswer(Struct, frozen=True, kw_only=True):
    """What `POST /v1/submit` adds to a SubmitAnswer of one call: its bindings as the paper writes them."""

    calls: list[CallHandle]
    placeholders: list[PaperBinding]


class CallInfo(Struct, frozen=True, kw_only=True):
    """GET /v1/sessions/{s}/calls/{c}."""

    id: str
    state: Literal["pending", "ready", "running", "done", "failed", "cancelled"]
    inputs: dict[str, str]
    outputs: dict[str, str]
    usage: Usage
    timing: Timing
    objective: str
    engine: int | None = None
    error: VariableError | None = None


class SessionInfo(Complete, frozen=True, kw_only=True):
    id: str
    created_at: float
    expires_at: float
    model: str | None = None
    metadata: dict[str, str] = {}
    num_calls: int = 0
    num_variables: int = 0


class Deleted(Struct, frozen=True, kw_only=True):
    id: str
    deleted: bool


class ListAnswer(Complete, frozen=True, kw_only=True):
    """`data` holds SessionInfo or VariableInfo."""

    data: list[SessionInfo] | list[VariableInfo]
    object: str = "list"


class Pending(Struct, frozen=True, kw_only=True):
    """A value that is not there yet, and why."""

    id: str
    state: VariableState
    reason: str


ProgramStatus = Literal["running", "done", "failed", "cancelled"]


class ValuesAnswer(Struct, frozen=True, kw_only=True):
    """A program's answer, and that of a `get` of many. `pending` names what is not ready yet (202)."""

    session_id: str
    values: dict[str, str]
    id: str | None = None
    errors: dict[str, VariableError] | None = None
    pending: dict[str, Pending] | None = None
    usage: Usage | None = None
    timing: Timing | None = None
    error: ErrorInfo | None = None
    status: ProgramStatus | None = None


class Event(Struct, frozen=True, kw_only=True, tag_field="type"):
    """One SSE event; its tag is the `event:` line too."""


class ProgramCreated(Event, frozen=True, kw_only=True, tag="program.created"):
    id: str
    session_id: str
    variables: dict[str, str]


class CallStarted(Event, frozen=True, kw_only=True, tag="call.started"):
    id: str


class CallFinished(Event, frozen=True, kw_only=True, tag="call.finished"):
    id: str
    state: str


class VariableDelta(Event, frozen=True, kw_only=True, tag="variable.delta"):
    name: str
    delta: str


class VariableReady(Event, frozen=True, kw_only=True, tag="variable.ready"):
    name: str
    value: str


class VariableFailed(Event, frozen=True, kw_only=True, tag="variable.failed"):
    name: str
    error: VariableError


class VariablePending(Event, frozen=True, kw_only=True, tag="variable.pending"):
    """The stream ends before the variable has: nothing runs any more that could bring it, or `wait` ran out."""

    name: str
    pending: Pending


class ProgramDone(Event, frozen=True, kw_only=True, omit_defaults=False, tag="program.done"):
    values: dict[str, str]
    errors: dict[str, VariableError] = {}
    pending: dict[str, Pending] = {}
    usage: Usage = Usage()


ProgramEvent = (
    ProgramCreated
    | CallStarted
    | CallFinished
    | VariableDelta
    | VariableReady
    | VariableFailed
    | VariablePending
    | ProgramDone
)

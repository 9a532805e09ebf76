"""What the server's own endpoints answer, for the published schema; formats of others have theirs in `compat`."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from parrot import wire


class Health(msgspec.Struct, frozen=True):
    status: str


class Ready(msgspec.Struct, frozen=True):
    status: str
    engines: list[str]


class Version(msgspec.Struct, frozen=True):
    version: str


class TaskStory(msgspec.Struct, frozen=True):
    task: int
    story: list[str]


class Story(msgspec.Struct, frozen=True):
    id: str
    tasks: list[TaskStory]


class Index(msgspec.Struct, frozen=True):
    """`GET /` for programs; a browser gets a page."""

    name: str
    version: str
    docs: str
    openapi: str
    openai: list[str]
    anthropic: list[str]
    semantic_variables: list[str]
    operations: list[str]


class SessionList(msgspec.Struct, frozen=True, kw_only=True):
    object: str
    data: list[wire.SessionInfo]


class VariableList(msgspec.Struct, frozen=True, kw_only=True):
    object: str
    data: list[wire.VariableInfo]


class InputTokens(msgspec.Struct, frozen=True):
    input_tokens: int


class AssistantMessage(msgspec.Struct, frozen=True, kw_only=True):
    """As Anthropic's own reference has it."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    stop_sequence: str | None
    usage: dict[str, Any]


class MessageEvent(msgspec.Struct, frozen=True):
    """Further members by type."""

    type: str


class ResponseEvent(msgspec.Struct, frozen=True):
    """Further members by type."""

    type: str
    sequence_number: int

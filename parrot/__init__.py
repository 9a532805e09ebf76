"""Programs of semantic variables: `import parrot as P`.

    @P.semantic_function
    def write(topic: P.SemanticVariable):
        \"\"\"Write a story about {{input:topic}}.
        Story: {{output:story}}\"\"\"

    print(write("a fox").get())

Calls are collected; the first `get` sends the program in one exchange, and the server runs its graph.
"""

from __future__ import annotations

from parrot.errors import (
    ApiError,
    BadRequest,
    Conflict,
    ConnectionError,
    DependencyFailed,
    EngineFailed,
    Gone,
    ModelNotFound,
    NotFound,
    ParrotError,
    SessionClosed,
    TemplateError,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unprocessable,
    VariableFailed,
)
from parrot.function import call, native_function, semantic_function
from parrot.PerformanceCriteria import LATENCY, THROUGHPUT, Limits
from parrot.session import Session, current_session, flush
from parrot.variable import SemanticVariable
from parrot.wire import Sampling

SemanticFunction = semantic_function
"""The paper's name of it."""

__all__ = [
    "LATENCY",
    "THROUGHPUT",
    "ApiError",
    "BadRequest",
    "Conflict",
    "ConnectionError",
    "DependencyFailed",
    "EngineFailed",
    "Gone",
    "Limits",
    "ModelNotFound",
    "NotFound",
    "ParrotError",
    "Sampling",
    "SemanticFunction",
    "SemanticVariable",
    "Session",
    "SessionClosed",
    "TemplateError",
    "TooLarge",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "Unprocessable",
    "VariableFailed",
    "call",
    "current_session",
    "flush",
    "native_function",
    "semantic_function",
]

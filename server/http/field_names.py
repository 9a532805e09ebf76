"""Errors of a chat under the names that another format has for a chat's fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from server.errors import ApiError


@contextmanager
def named(field_of: Callable[[str], str]) -> Iterator[None]:
    """`field_of` says which field of the format a chat's field was made of."""
    try:
        yield
    except ApiError as error:
        info = error.info
        if info.param is None:
            raise
        param, message = field_of(info.param), info.message
        if message.startswith(f"{info.param} "):  # as in "stop may have at most ..."
            message = param + message.removeprefix(info.param)
        raise type(error)(message, param=param, code=info.code, retry_after=error.retry_after) from error

"""Reads a request body as JSON of a type.

Responsible for: turning whatever a client sent into a Struct, or into an error that names the field. The
content type is not looked at (curl's default is a form), null is what the types make of it (absent). A member
that a type does not know is an error in our own API; in OpenAI's and Anthropic's it is ignored, with a debug
line, because their clients add their own.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from server.errors import BadRequest, TooLarge, TooSlow
from server.http.body_values import check_values
from server.http.keys import CLIENT_TIMEOUT

log = logging.getLogger(__name__)
T = TypeVar("T")

_PATH = re.compile(r" - at (?:`key` in )?`(?P<path>\$[^`]*)`$")
_GOT = re.compile(r"got `(?P<kind>\w+)`")
_STEP = re.compile(r"\[(\d+)\]|\.([^.\[]+)")
_ANY_KEY = "[...]"
_KINDS = {
    str: "str",
    int: "int",
    float: "float",
    bool: "bool",
    type(None): "null",
    list: "array",
    dict: "object",
}
_MAX_KEY = 140  # characters of a client's key in an error
_FIELD = re.compile(r"(?P<problem>missing required|unknown) field `(?P<field>[^`]+)`")


async def read(request: web.Request, type_: type[T]) -> T:
    """The body of `request` as `type_`. Raises BadRequest (with `param`), TooLarge or TooSlow."""
    patience = request.app.get(CLIENT_TIMEOUT)
    try:
        async with asyncio.timeout(patience):
            data = await request.read()
    except TimeoutError as error:
        raise TooSlow(f"The request body did not come within {patience:g} s (--client-timeout).") from error
    except web.HTTPRequestEntityTooLarge as error:
        limit = request.app._client_max_size
        raise TooLarge(f"The request body is larger than {limit} bytes.") from error
    except web.RequestPayloadError as error:  # a chunk or an encoding that is none
        raise BadRequest("The request body cannot be read as it was sent.", code="malformed_body") from error
    return decode(data, type_)


async def read_optional(request: web.Request, type_: type[T], absent: T) -> T:
    """As `read`, and `absent` where the client sent no body at all."""
    return await read(request, type_) if request.body_exists else absent


def decode(data: bytes, type_: type[T]) -> T:
    """Raises BadRequest, TooLarge."""
    check_values(data)
    try:
        value = msgspec.json.decode(data, type=type_)
    except msgspec.ValidationError as error:
        raise _named(str(error), data) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"The request body is not valid JSON: {error}", code="invalid_json") from error
    if log.isEnabledFor(logging.DEBUG):
        _log_unknown(data, type_)
    return value


def _named(message: str, data: bytes) -> BadRequest:
    """msgspec says where: "Expected `int`, got `str` - at `$.messages[0].content`"."""
    found = _PATH.search(message)
    path = found["path"][1:] if found else ""
    text = message[: found.start()] if found else message
    if _ANY_KEY in path:
        path = _with_key(path, text, data)
    path = path.lstrip(".")
    code = "invalid_type"
    if named := _FIELD.search(text):
        field = named["field"][:_MAX_KEY]
        text = f"{text[: named.start('field')]}{field}`".replace("Object contains unknown", "Unknown")
        path = f"{path}.{field}" if path else field
        code = "unknown_field" if named["problem"] == "unknown" else code
    where = f" (at {path})" if path else ""
    return BadRequest(f"{text}{where}.", param=path or None, code=code)


def _with_key(path: str, problem: str, data: bytes) -> str:
    """msgspec writes `[...]` for whatever key: it is the first one with a value as the problem has it."""
    before, _, after = path.partition(_ANY_KEY)
    try:
        members = _at(msgspec.json.decode(data), before)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # what follows is not even JSON
        return before
    found = (key for key, value in members.items() if _has(problem, _at(value, after)))
    key = next(found, None)
    return before if key is None else f"{before}.{key[:_MAX_KEY]}{after}"


def _has(problem: str, value: Any) -> bool:
    """Whether msgspec can have meant `value`: by its kind, or by the field that it has or lacks."""
    if got := _GOT.search(problem):
        return _KINDS[type(value)] == got["kind"]
    if named := _FIELD.search(problem):
        return isinstance(value, dict) and (named["field"] in value) == (named["problem"] == "unknown")
    return False


def _at(value: Any, path: str) -> Any:
    """What stands in `value` at a path as msgspec writes them; None where there is nothing."""
    for index, name in _STEP.findall(path):
        if index:
            value = value[int(index)] if isinstance(value, list) and int(index) < len(value) else None
        else:
            value = value.get(name) if isinstance(value, dict) else None
    return value


def _log_unknown(data: bytes, type_: type[object]) -> None:
    """Only while debugging: the body is decoded a second time. A union is logged as if it knew everything."""
    if not (isinstance(type_, type) and issubclass(type_, msgspec.Struct)):
        return
    members = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    unknown = sorted(members.keys() - set(type_.__struct_encode_fields__))
    if unknown:
        log.debug("ignored unknown fields of %s: %s", type_.__name__, ", ".join(unknown))

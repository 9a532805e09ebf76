"""What a line of the log carries beside its text: the request, session and call that it is about.

Responsible for: those ids, which travel with asyncio's contexts (a task inherits those of who started it), and the
two formats, text for people and JSON for machines. Leaves to others: what is worth a line.
"""

from __future__ import annotations

import logging
import sys
import time
from contextvars import ContextVar
from typing import Literal

import orjson

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
SESSION_ID: ContextVar[str] = ContextVar("session_id", default="")
CALL_ID: ContextVar[str] = ContextVar("call_id", default="")

_IDS = {"request": REQUEST_ID, "session": SESSION_ID, "call": CALL_ID}

LogFormat = Literal["text", "json"]


def configure(level: str, form: LogFormat) -> None:
    """The process's log, on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record)
        ids = " ".join(f"{name}={id}" for name, id in _ids().items())
        return f"{text} [{ids}]" if ids else text


class JsonFormatter(logging.Formatter):
    """An object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_ids(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def _ids() -> dict[str, str]:
    return {name: id for name, variable in _IDS.items() if (id := variable.get())}

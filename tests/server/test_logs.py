"""Lines of the log, for people and for machines."""

from __future__ import annotations

import json
import logging
from contextvars import copy_context

from server import logs


def formatted(formatter: logging.Formatter, **ids: str) -> str:
    record = logging.LogRecord("a.logger", logging.WARNING, __file__, 1, "it %s", ("ended",), None)

    def in_context() -> str:
        for name, id in ids.items():
            {"request": logs.REQUEST_ID, "session": logs.SESSION_ID, "call": logs.CALL_ID}[name].set(id)
        return formatter.format(record)

    return copy_context().run(in_context)


def test_a_json_line_has_time_level_logger_message_and_ids() -> None:
    line = json.loads(formatted(logs.JsonFormatter(), request="r", call="c"))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "a.logger",
        "message": "it ended",
        "request": "r",
        "call": "c",
    }


def test_a_text_line_has_ids_only_where_there_are_some() -> None:
    assert formatted(logs.TextFormatter()).endswith("WARNING a.logger: it ended")
    assert formatted(logs.TextFormatter(), session="s").endswith("it ended [session=s]")

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import cast

import pytest

from parrot import wire
from server.errors import NotFound, Unprocessable
from server.program import KEY_TTL_S, Program, Programs
from server.session.events import CallsSubmitted
from server.session.session import Session
from server.session_runner import SessionRunner
from tests.server.session.programs import environment

ONE, TWO = "one", "two"
CALL = wire.ProgramRequest(calls=[wire.Call(prompt="Once {{output:a}}")])
_ids = itertools.count()


@dataclass(frozen=True, slots=True)
class _Runner:
    """All that is asked of one here."""

    session: Session


def program(tenant: str, created: float = 0.0) -> Program:
    session = Session(f"sess_{next(_ids)}", tenant, created)
    submitted = session.plan_program(CALL, environment())
    assert isinstance(submitted, CallsSubmitted)
    runner = cast("SessionRunner", _Runner(session))
    return Program(f"prog_{next(_ids)}", tenant, runner, submitted, created)


def test_a_retry_finds_what_its_key_has_started_and_another_body_is_refused() -> None:
    programs, first = Programs(), program(ONE)
    programs.add(first, "key", b"body")
    assert programs.by_key(ONE, "key", b"body", 1.0) is first
    assert programs.by_key(TWO, "key", b"body", 1.0) is None
    with pytest.raises(Unprocessable):
        programs.by_key(ONE, "key", b"other", 1.0)


def test_a_tenant_with_many_keys_and_programs_pushes_out_its_own_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.program.KEPT_PROGRAMS", 20)
    monkeypatch.setattr("server.program.KEPT_KEYS", 10)
    programs, kept, pushed_out = Programs(), program(TWO), program(ONE)
    programs.add(kept, "key", b"")
    programs.add(pushed_out, "key", b"")
    for number in range(20):
        programs.add(program(ONE), f"{number}", b"")
    assert programs.by_key(ONE, "key", b"", 1.0) is None
    assert programs.by_key(ONE, "10", b"", 1.0) is not None
    assert programs.by_key(ONE, "9", b"", 1.0) is None
    assert programs.by_key(TWO, "key", b"", 1.0) is kept
    assert programs.get(TWO, kept.id) is kept
    with pytest.raises(NotFound):
        programs.get(ONE, pushed_out.id)


def test_a_key_that_has_expired_starts_something_new_that_is_kept_as_long() -> None:
    programs, later = Programs(), KEY_TTL_S + 1
    programs.add(program(ONE), "key", b"")
    assert programs.by_key(ONE, "key", b"", later) is None
    again = program(ONE, later)
    programs.add(again, "key", b"new")
    programs.add(program(ONE, later + 1), "other", b"")
    assert programs.by_key(ONE, "key", b"new", later + 2) is again


def test_of_a_session_that_has_ended_only_a_retry_finds_the_programs() -> None:
    programs, ended = Programs(), program(ONE)
    programs.add(ended, "key", b"")
    programs.session_ended(ended.session_id)
    assert programs.by_key(ONE, "key", b"", 1.0) is ended
    with pytest.raises(NotFound):
        programs.get(ONE, ended.id)

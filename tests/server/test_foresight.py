"""What engines are told about KV: when it is wanted next, and that it is not wanted any more."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import pytest

from engine.types import Hint
from server.foresight import REMEMBERED, Foresight, Host
from server.graph.prefix import Context
from server.lengths import ENOUGH, Lengths
from server.tenant import Tenant
from tests.server.session.programs import Program

ENGINE = 3


@dataclass
class Pool:
    hints: list[Hint] = field(default_factory=list)

    def hint(self, engine_id: int, hint: Hint) -> None:
        assert engine_id == ENGINE
        self.hints.append(hint)


class Seen:
    """A session, and what is told of it. `whole`: it is a program's own."""

    def __init__(self, *calls: str, whole: bool = True, disabled: str = "", off: bool = False) -> None:
        self.program = Program()
        self.program.session.evictable = whole
        self.pool, self.lengths = Pool(), Lengths(off=off)
        host = SimpleNamespace(
            dispatcher=SimpleNamespace(pool=self.pool), lengths=self.lengths, disabled=frozenset({disabled})
        )
        self.foresight = Foresight(self.program.session, Tenant("tenant", b""), cast(Host, host))
        self.number = 0
        self.submit(*calls)

    def submit(self, *calls: str) -> None:
        event = self.program.plan(*calls)
        self.program.apply(event)
        self.foresight.submitted(event)

    def finish(self, output: str, *ends: int, tokens: int = 10) -> list[Hint]:
        """`ends`: of the pieces of its prompt, in tokens."""
        self.pool.hints.clear()
        self.number += 1
        task = self.program.session.variable(output).producer
        assert task is not None
        self.foresight.changed(self.program.finish(task, "text", *range(tokens)))
        context = Context(tuple(range(ends[-1])), ends, ends)
        self.foresight.generated(task, context, (ENGINE, self.number), tokens)
        return self.pool.hints


def test_what_a_waiting_call_will_match_is_wanted_and_the_rest_of_a_program_is_not() -> None:
    seen = Seen("Agent A {{output:a}}", "Agent B {{input:a}}{{output:b}}", "Agent A {{input:b}}{{output:c}}")
    want, release = seen.finish("a", 100)
    assert (want.id, want.begin, want.end) == (1, 0, 100)
    assert want.next_use is not None
    assert want.next_use > 512, "the call between may take as long as its max_tokens"
    assert release == Hint(id=1, begin=100)
    assert seen.finish("b", 50, 60) == [Hint(id=2, begin=50)], "its constants may be another program's too"


def test_the_next_output_of_a_call_wants_all_that_was_there() -> None:
    seen = Seen("A {{output:a}} B {{input:x}}{{output:b}}")
    want, release = seen.finish("a", 10)
    assert (want.end, want.begin) == (None, 0)
    assert release.begin >= 10


def test_of_an_open_session_nothing_is_released_before_it_ends() -> None:
    seen = Seen("A {{input:q}}{{output:a}}", whole=False)
    seen.program.set("q", "why")
    assert seen.finish("a", 7, 20) == []
    seen.foresight.closed()
    assert seen.pool.hints == [Hint(id=1, begin=7)]
    many = Seen(*(f"A {{{{output:v{n}}}}}" for n in range(REMEMBERED + 5)), whole=False)
    for n in range(REMEMBERED + 5):
        many.finish(f"v{n}", 3)
    many.foresight.closed()
    assert len(many.pool.hints) == REMEMBERED


def test_switched_off_nothing_is_told() -> None:
    seen = Seen("Agent A {{output:a}}", "Agent A {{input:a}}{{output:b}}", disabled="next-use-eviction")
    assert seen.finish("a", 100) == []
    seen.foresight.closed()
    assert seen.pool.hints == []


@pytest.mark.parametrize(("off", "less"), [(False, True), (True, False)])
def test_what_outputs_were_like_tells_how_much_is_left(off: bool, less: bool) -> None:
    seen = Seen(*(f"Same {{{{output:v{n}}}}}".replace(f"v{n}", f"v{n}") for n in range(ENOUGH)), off=off)
    for n in range(ENOUGH):
        seen.finish(f"v{n}", 5, tokens=20)
    assert seen.foresight.remaining == 0
    seen.submit("New {{output:later}}")
    assert (seen.foresight.remaining < 30) == less

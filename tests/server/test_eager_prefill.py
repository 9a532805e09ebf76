"""What is computed of calls that wait is always the beginning of what they are submitted with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.types import Salt
from server.config import BUNDLED_MODEL
from server.eager_prefill import MIN_TOKENS, EagerPrefill, Host
from server.graph import prefix
from server.graph.call import Task
from server.session.events import CallsSubmitted, Effects, TaskOutput
from server.tenant import Tenant
from server.tokenizer import LONG_TEXT, Tokenizer
from tests.server.session.programs import Program

TENANT = Tenant("tenant", b"salt")


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(Path(BUNDLED_MODEL))


@dataclass
class Recorder:
    """Stands where the dispatcher is: `asked` by id, the ids that were called off, and the figures."""

    asked: dict[int, tuple[int, ...]] = field(default_factory=dict)
    salts: list[tuple[Salt, ...]] = field(default_factory=list)
    cooled: set[int] = field(default_factory=set)
    settled: set[int] = field(default_factory=set)
    homes: list[int | None] = field(default_factory=list)

    def ahead(self, request_ids: Iterable[int]) -> tuple[int, int] | None:
        """All is computed on engine 1."""
        lengths = [len(self.asked[id]) for id in request_ids]
        return (1, max(lengths)) if lengths else None

    def warm(self, app: str, token_ids: tuple[int, ...], salts: tuple[Salt, ...], home: int | None) -> int:
        self.homes.append(home)
        self.asked[len(self.asked)] = token_ids
        self.salts.append(salts)
        return len(self.asked) - 1

    def cool(self, request_id: int) -> None:
        self.cooled.add(request_id)

    def warmed(self, request_ids: Iterable[int], cached_tokens: int) -> None:
        self.settled.update(request_ids)


class Eager:
    """A program and what is computed ahead of it."""

    def __init__(self, *disabled: str) -> None:
        self.program = Program(allow_public=True)
        self.recorder = Recorder()
        host = SimpleNamespace(
            dispatcher=self.recorder, tokenizer=tokenizer(), max_model_len=4096, disabled=frozenset(disabled)
        )
        self.home: int | None = None
        self.eager = EagerPrefill(self.program.session, TENANT, cast(Host, host), lambda task: self.home)
        self.submitted: dict[Task, tuple[int, ...]] = {}

    @property
    def texts(self) -> list[str]:
        return [tokenizer().decode(ids) for ids in self.recorder.asked.values()]

    def submit(self, *calls: str) -> None:
        event = self.program.plan(*calls)
        effects = self.program.apply(event)
        assert isinstance(event, CallsSubmitted)
        self.eager.submitted(event)
        self.follow(effects)

    def follow(self, effects: Effects) -> None:
        if self.eager.changed(effects):
            self.eager.look()
        for task in effects.ready:
            context = prefix.canonical(task.context(), tokenizer(), chat=False)
            self.submitted[task] = context.token_ids

    def start(self, output: str) -> None:
        self.follow(self.program.start(self.task(output)))

    def grow(self, output: str, text: str) -> None:
        self.follow(self.program.apply(TaskOutput(self.task(output).id, text)))

    def finish(self, output: str, text: str) -> None:
        ids = tokenizer().encode_continuation(text)
        self.follow(self.program.finish(self.task(output), text, *ids))

    def task(self, output: str) -> Task:
        found = self.program.session.variable(output).producer
        assert found is not None
        return found


WORDS = "the small parrot flew over a wide green river and sang. "


def test_the_constants_of_a_call_are_computed_while_what_it_waits_for_runs() -> None:
    eager = Eager()
    eager.submit(
        "Go {{output:a}}", WORDS * 10 + "{{input:a}}{{output:b}}", WORDS * 9 + "{{input:b}}{{output:c}}"
    )
    assert not eager.texts, "nobody knows yet where it runs"
    eager.start("a")
    (text,) = eager.texts
    assert (WORDS * 10).startswith(text)
    assert len(text) > len(WORDS) * 9
    assert eager.recorder.salts == [(Salt(0, b"salt"),)]
    eager.finish("a", "done")
    assert eager.recorder.cooled == {0}, "it is submitted now"
    eager.start("b")
    assert len(eager.texts) == 2, "and what waits for it comes next"


def test_what_is_computed_ahead_of_a_call_stays_on_one_engine_and_the_call_is_told_which() -> None:
    eager = Eager()
    eager.home = 3
    eager.submit("Go {{output:a}}", WORDS * 10 + "{{input:a}}" + WORDS * 10 + "{{input:x}}{{output:b}}")
    eager.start("a")
    assert eager.recorder.homes == [3], "that has the beginning from another call"
    eager.finish("a", WORDS)
    assert eager.recorder.homes == [3, 1], "that has computed the beginning"
    assert eager.eager.ahead(eager.task("b")) == (1, len(eager.recorder.asked[1]))
    assert eager.eager.ahead(eager.task("a")) is None


def test_what_waits_for_a_client_is_computed_at_submit() -> None:
    eager = Eager()
    eager.submit(WORDS * 10 + "{{input:question}}{{output:answer}}")
    assert len(eager.texts) == 1


def test_who_gets_its_last_input_a_moment_after_another_one_is_not_computed_in_between() -> None:
    eager = Eager()
    eager.submit("A {{output:a}}", "B {{output:b}}", "{{input:a}}{{input:b}}{{output:c}}")
    for name in "ab":
        eager.start(name)
    assert eager.eager.changed(eager.program.finish(eager.task("a"), WORDS * 10, 1))
    eager.finish("b", "done")
    assert not eager.texts
    other = Eager()
    other.submit("A {{output:a}}", "B {{output:b}}", "{{input:a}}{{input:b}}{{output:c}}")
    for name in "ab":
        other.start(name)
    other.finish("a", WORDS * 10)
    assert len(other.texts) == 1, "where the other one takes longer, it is"


def test_a_growing_input_is_followed_but_not_token_by_token() -> None:
    eager = Eager()
    eager.submit("Go {{output:a}}", WORDS * 4 + "{{input:a}} so {{output:b}}")
    eager.start("a")
    for _ in range(400):
        eager.grow("a", "word ")
    assert 4 <= len(eager.texts) <= 12
    lengths = [len(ids) for ids in eager.recorder.asked.values()]
    assert all(later >= earlier + MIN_TOKENS for earlier, later in pairwise(lengths))
    still = Eager("streamed-prefill")
    still.submit("Go {{output:a}}", WORDS * 4 + "{{input:a}} so {{output:b}}")
    still.start("a")
    still.grow("a", "word " * 400)
    assert len(still.texts) == 1


def test_inputs_with_transforms_are_not_followed_and_an_arrived_one_is() -> None:
    eager = Eager()
    eager.submit("Go {{output:a}}", "And {{output:x}}", WORDS * 4 + "{{input:a}} and {{input:x}}{{output:b}}")
    eager.start("a")
    eager.start("x")
    eager.finish("a", WORDS * 6)
    assert len(eager.texts[-1]) > len(WORDS) * 8


def test_switched_off_nothing_is_computed() -> None:
    for name in ("eager-prefill", "prefix-cache"):
        eager = Eager(name)
        eager.submit(
            "Go {{output:a}}", WORDS * 10 + "{{input:a}}{{output:b}}", WORDS * 10 + "{{input:q}}{{output:c}}"
        )
        eager.start("a")
        assert not eager.texts


def test_when_the_session_ends_all_is_called_off() -> None:
    eager = Eager()
    eager.submit("Go {{output:a}}", WORDS * 10 + "{{input:a}}{{output:b}}")
    eager.start("a")
    eager.eager.closed()
    assert eager.recorder.cooled == eager.recorder.settled == {0}


async def test_a_long_prompt_is_encoded_on_a_thread_and_forgotten_when_its_call_runs_meanwhile() -> None:
    eager = Eager()
    long = WORDS * (LONG_TEXT // len(WORDS) + 1)
    eager.submit(
        "Go {{output:a}}", long + "{{input:a}}{{output:b}}", "Else " + long + "{{input:a}}{{output:c}}"
    )
    eager.start("a")
    assert not eager.texts
    await jobs()
    assert len(eager.texts) == 2
    late = Eager()
    late.submit("Go {{output:a}}", long + "{{input:a}}{{output:b}}")
    late.start("a")
    late.finish("a", "done")
    await jobs()
    assert not late.texts


async def jobs() -> None:
    """Returns when nothing is encoded any more."""
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)


SHORT = "a small parrot, "
"""So that no prompt is so long that it would be encoded on a thread."""

PROMPTS = st.lists(
    st.sampled_from(["{{input:a}}", "{{input:b}}", WORDS, "it's", " 'll\n", "<|user|>"]),
    max_size=6,
    unique=True,
)
VALUES = st.lists(
    st.sampled_from([SHORT, "it", "'s ", "\n", "<|us", "er|>", "é", "12"]), min_size=1, max_size=10
)


@settings(deadline=None, max_examples=60)
@given(PROMPTS, VALUES, VALUES, st.booleans())
def test_whatever_comes_what_was_computed_is_a_beginning_of_what_is_submitted(
    prompt: list[str], a: list[str], b: list[str], b_first: bool
) -> None:
    eager = Eager()
    call = "".join([*prompt, "{{input:a}}{{input:b}}{{output:c}}"])
    eager.submit("A {{output:a}}", "B {{output:b}}", call)
    values = {"a": a * 4, "b": b * 4}
    for name in ("b", "a") if b_first else ("a", "b"):
        eager.start(name)
        for text in values[name]:
            eager.grow(name, text)
        eager.finish(name, "".join(values[name]))
    submitted = eager.submitted[eager.task("c")]
    for ids in eager.recorder.asked.values():
        assert submitted[: len(ids)] == ids
    assert eager.recorder.cooled == set(eager.recorder.asked)

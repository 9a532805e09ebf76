"""Sessions to test with: deterministic ids and seeds, short ways to submit and to run."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from parrot import wire
from server.chat_template import ChatMessage
from server.errors import ModelNotFound
from server.graph.call import Task
from server.graph.prefix import Fill
from server.sampling import SamplingModel
from server.session.events import CallsSubmitted, Effects, TaskFinished, TaskStarted
from server.session.limits import Limits
from server.session.plan import Environment, Wanted
from server.session.session import Session


def render_chat(messages: Sequence[ChatMessage]) -> str:
    return "".join(f"<{message.role}>{message.content}</>" for message in messages)


def check_model(name: str | None, param: str) -> None:
    if name not in (None, "tiny"):
        raise ModelNotFound(f"no model {name}", param=param)


def environment(*, allow_public: bool = False) -> Environment:
    numbers = itertools.count()
    return Environment(
        new_id=lambda kind: f"{kind}_{next(numbers)}",
        draw_seed=lambda: 7,
        render_chat=render_chat,
        check_model=check_model,
        sampling=SamplingModel(vocab_size=1000, eos_token_ids=(2,)),
        allow_public=allow_public,
    )


class Program:
    """A session with its environment, and a clock that counts events. Checks the invariants after each."""

    def __init__(self, *, limits: Limits | None = None, allow_public: bool = False) -> None:
        self.session = Session("sess_1", "tenant", 0.0, limits=limits)
        self.environment = environment(allow_public=allow_public)
        self.now = 0.0

    def submit(
        self,
        *calls: wire.Call | str,
        variables: Mapping[str, str] | None = None,
        get: Wanted | None = None,
    ) -> Effects:
        return self.apply(self.plan(*calls, variables=variables, get=get))

    def plan(
        self, *calls: wire.Call | str, variables: Mapping[str, str] | None = None, get: Wanted | None = None
    ) -> CallsSubmitted:
        full = [wire.Call(prompt=call) if isinstance(call, str) else call for call in calls]
        return self.session.plan_submit(full, self.environment, variables=variables, get=get)

    def set(self, ref: str, value: str) -> Effects:
        event = self.session.plan_set(ref, value, self.environment)
        return Effects() if event is None else self.apply(event)

    def get(self, ref: str, criteria: wire.Criteria | None = None) -> Effects:
        return self.apply(self.session.plan_get(ref, criteria))

    def start(self, task: Task) -> Effects:
        return self.apply(TaskStarted(task.id, 0))

    def finish(self, task: Task, text: str, *token_ids: int) -> Effects:
        return self.apply(TaskFinished(task.id, text, token_ids, prompt_tokens=10, completion_tokens=2))

    def apply(self, event: object) -> Effects:
        self.now += 1.0
        effects = self.session.apply(event, self.now)  # type: ignore[arg-type]
        self.session.check_invariants()
        return effects

    def state(self, ref: str) -> str:
        return self.session.variable(ref).state

    def value(self, ref: str) -> str | None:
        return self.session.variable(ref).value


def prompt(task: Task) -> str:
    """The text that a ready task generates from."""
    return "".join(piece.text if isinstance(piece, Fill) else f"[{piece.text}]" for piece in task.context())


def outputs(tasks: Sequence[Task]) -> list[str]:
    return [task.output.name for task in tasks]

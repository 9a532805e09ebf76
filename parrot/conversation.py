"""The server's half of a session: what it was told, what it is asked, and its answers going into variables.

Responsible for: one exchange a batch, the order of submits (a batch may name the outputs of the one before),
and that every variable it was given is settled exactly once, whatever happens on the way. When the server has
forgotten the session, the batch goes to a new one with the values that its calls need.

The coroutines run on the background loop, which alone changes `_id` and `_known`;
any thread may call the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from parrot import wire
from parrot.errors import (
    ConnectionError,
    Gone,
    ModelNotFound,
    NotFound,
    ParrotError,
    SessionClosed,
    VariableFailed,
)
from parrot.transport import Endpoint
from parrot.variable import SemanticVariable


@dataclass(slots=True, eq=False)
class Node:
    """A call that was made; the variables by their names in the session."""

    call: wire.Call
    inputs: dict[str, SemanticVariable]
    outputs: dict[str, SemanticVariable]


@dataclass(slots=True)
class Batch:
    """What one exchange submits and asks for."""

    nodes: list[Node] = field(default_factory=list)
    asked: dict[str, wire.Criteria | None] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, SemanticVariable]:
        return {name: variable for node in self.nodes for name, variable in node.inputs.items()}

    @property
    def outputs(self) -> dict[str, SemanticVariable]:
        return {name: variable for node in self.nodes for name, variable in node.outputs.items()}


class Conversation:
    def __init__(self, endpoint: Endpoint, model: str | None) -> None:
        self._endpoint = endpoint
        self._model = model
        self._id: str | None = None
        self._known: set[str] = set()
        self._submitting = asyncio.Lock()
        self._unsettled: WeakValueDictionary[str, SemanticVariable] = WeakValueDictionary()

    @property
    def id(self) -> str | None:
        return self._id

    def expect(self, variable: SemanticVariable) -> None:
        """From now on `variable` is settled by its name; one that nobody holds any more is forgotten."""
        self._unsettled[variable.bound_name] = variable

    def unsettled(self) -> list[SemanticVariable]:
        return list(self._unsettled.values())

    def resolve(self, name: str, value: str) -> None:
        if (variable := self._unsettled.pop(name, None)) is not None:
            variable.cell.resolve(value)

    def fail(self, name: str, error: ParrotError) -> None:
        if (variable := self._unsettled.pop(name, None)) is not None:
            variable.cell.fail(error)

    async def run(self, batch: Batch) -> None:
        """One program, from its submit to its end. Outputs that were not asked for may stay without value."""
        with self._settling(batch.outputs):
            positions: dict[str, int] = {}
            async with AsyncExitStack() as stack:
                async with self._submitting:
                    events = await self._post(batch, stack)
                async for event in events:
                    self._apply(event, positions)
            self._must_be_done(batch.asked)

    async def follow(self, name: str, criterion: wire.Criteria) -> None:
        """Asks for one variable of a program that was submitted before."""
        with self._settling([name]):
            async with self._submitting:
                path = f"/v1/sessions/{self._id}/variables/{name}"
            if name not in self._unsettled:
                return
            positions: dict[str, int] = {}
            query = {"stream": "true", "criteria": _in_query(criterion)}
            async with self._endpoint.events("GET", path, query=query) as events:
                async for event in events:
                    self._apply(event, positions)
            self._must_be_done([name])

    async def delete(self) -> None:
        if self._id is not None:
            await self._endpoint.request("DELETE", f"/v1/sessions/{self._id}")

    @contextmanager
    def _settling(self, names: Iterable[str]) -> Iterator[None]:
        """Whatever is raised is what the variables' `get` raises."""
        try:
            yield
        except ParrotError as error:
            for name in names:
                self.fail(name, error)
        except Exception as error:
            failure = ParrotError(f"{type(error).__name__}: {error}")
            failure.__cause__ = error
            for name in names:
                self.fail(name, failure)

    def _must_be_done(self, names: Iterable[str]) -> None:
        for name in names:
            self.fail(
                name,
                ConnectionError(f"{self._endpoint.base_url}: the answer ended before {name} had a value"),
            )

    async def _post(self, batch: Batch, stack: AsyncExitStack) -> AsyncIterator[wire.ProgramEvent]:
        """When it returns, the server knows the batch's variables."""
        while True:
            answer = self._endpoint.events("POST", "/v1/programs", self._request(batch))
            try:
                events = await stack.enter_async_context(answer)
            except (NotFound, Gone) as error:
                if self._id is None or isinstance(error, ModelNotFound):
                    raise
                self._id = None
                self._known.clear()
                continue
            async for event in events:
                self._apply(event, {})
                break
            self._known.update(batch.inputs, batch.outputs)
            return events

    def _request(self, batch: Batch) -> wire.ProgramRequest:
        produced = batch.outputs
        new = {n: v for n, v in batch.inputs.items() if n not in self._known and n not in produced}
        return wire.ProgramRequest(
            calls=[node.call for node in batch.nodes],
            variables={name: _value(variable) for name, variable in new.items()} or None,
            get=batch.asked,
            stream=True,
            session_id=self._id,
            model=self._model,
        )

    def _apply(self, event: wire.ProgramEvent, positions: dict[str, int]) -> None:
        """`positions`: how much of each variable's text this exchange has told."""
        match event:
            case wire.ProgramCreated():
                self._id = event.session_id
            case wire.VariableDelta():
                start = positions.get(event.name, 0)
                positions[event.name] = start + len(event.delta)
                if (variable := self._unsettled.get(event.name)) is not None:
                    variable.cell.extend(start, event.delta)
            case wire.VariableReady():
                self.resolve(event.name, event.value)
            case wire.VariableFailed():
                self.fail(event.name, VariableFailed.of(event.name, event.error))
            case wire.ProgramDone():
                for name, value in event.values.items():
                    self.resolve(name, value)
                for name, failure in event.errors.items():
                    self.fail(name, VariableFailed.of(name, failure))
            case _:
                pass  # calls are not variables


def _value(variable: SemanticVariable) -> str:
    if not variable.done:
        raise SessionClosed(f"{variable!r}: the server's session ended before it had a value")
    return variable.cell.result()


def _in_query(criterion: wire.Criteria) -> str:
    if isinstance(criterion, str):
        return criterion
    limits = {name: getattr(criterion, name) for name in criterion.__struct_fields__}
    return ",".join(f"{name}:{value:g}" for name, value in limits.items() if value is not None)

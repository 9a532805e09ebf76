"""A task on engines that may die under it.

Responsible for: one task's text, whatever happens to the engine that computes it. When an engine dies, the task is
placed again with its prompt and the tokens so far: a token is a function of (logits, seed, position), so the stream
goes on as if nothing had been. Text, stop strings and usage are kept; cached_tokens is what the first life said.

    placed --> open on an engine --> last delta                a death without a token is a strike:
       ^             | died                                    1, 2  placed again; after 2 alone, as a suspect
       +-------------+                                         3     EngineFailed: it seems to be what kills engines

Leaves to the Dispatcher: where it is placed (`place`, `fail`), and whom a death may be blamed on (`strike`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.client import EngineClient, EngineDied
from engine.types import Generate, Key, Objective, Salt, TokenDelta
from server.errors import ApiError, EngineFailed, TooSlow
from server.generation import GenerationParams, TextAssembler, TextDelta, merged
from server.metrics import RequestClock
from server.scheduler.engine_pool import EnginePool
from server.scheduler.events import Dispatch, TaskSpec

SUSPECT = 2
"""Strikes after which a task is tried alone, until its first token."""

GUILTY = 3

MAX_UNREAD = 16_384
"""Tokens and alternatives to them that may wait for whoever iterates: about three megabytes."""

MAX_MERGED = 256
"""Deltas that are read as one: what follows from them is done at once, on the event loop."""

FIRST = 0
"""The application of what is wanted within a time, whenever it came: it may take a slot from any other."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a task generates from, beside what the scheduler needs to know of it (`spec`)."""

    spec: TaskSpec
    token_ids: Sequence[int]
    params: GenerationParams
    salts: tuple[Salt, ...]
    boundaries: tuple[int, ...] = ()
    arrived: float | None = None  # when its client asked for it, which its times count from; None: now
    followed: bool = False  # as engine.types.Generate's


Tap = Callable[[TextDelta], bool]
"""Takes a delta at once, or leaves it to be iterated (False)."""


class Generation:
    """A task's text, as an async iterator that ends after the delta with a finish_reason.

    Deltas that come faster than they are read are merged; when too much is unread, the engine is left, and
    what was kept ends in TooSlow. A `tap` is offered each delta in the very call that has read it from the engine,
    as long as all before it is taken: so what can be passed on without waiting costs no switch of tasks.

    Owns the place that was decided last, the tokens so far, what is not read yet and the strikes. `trial` is held
    by the one suspect that is being tried; `on_start` hears of the first delta of each life. Iterated by one
    asyncio task, which also calls `open` and `close`.
    """

    def __init__(
        self,
        work: Work,
        pool: EnginePool,
        trial: asyncio.Lock,
        assembler: TextAssembler,
        clock: RequestClock,
        on_start: Callable[[int], None],
    ) -> None:
        self._work = work
        self._pool = pool
        self._trial = trial
        self._assembler = assembler
        self._clock = clock
        self._on_start = on_start
        self._place: Dispatch | None = None
        self._objective, self._key = work.spec.objective, (0, 0, 0)
        self._failure: ApiError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._opened: Dispatch | None = None
        self._sent: Dispatch | None = None
        self._client: EngineClient | None = None
        self._tap: Tap | None = None
        self._unread: list[TextDelta] = []
        self._num_unread = 0
        self._error: Exception | None = None
        self._token_ids: list[int] = []
        self._strikes = 0
        self._progressed = False
        self._tried = False
        self._ended = False
        self.queue_ms: float | None = None  # in its first engine, until its first step

    _objective: Objective
    _key: Key

    @property
    def engine_id(self) -> int:
        """Where it runs, or was last placed."""
        place = self._opened or self._place
        assert place is not None, "it has been opened"
        return place.engine_id

    @property
    def key(self) -> Key:
        return self._key

    def was_on(self, engine_id: int) -> bool:
        """Whether it was sent to this engine, and has neither lost it nor been placed elsewhere since."""
        return self._sent is not None and self._sent is self._place and self._sent.engine_id == engine_id

    # For the Dispatcher.

    def place(self, dispatch: Dispatch) -> None:
        self._place = dispatch
        self.reprioritise(dispatch.objective, dispatch.key)
        self._wake()

    def reprioritise(self, objective: Objective, key: Key) -> None:
        self._objective, self._key = objective, key

    def fail(self, error: ApiError) -> None:
        """Nothing will place it any more."""
        self._failure = error
        self._wake()

    def displace(self) -> None:
        """Its engine died: until it is sent to one again, no other death is of its doing."""
        self._sent = None

    def strike(self, message: str) -> None:
        """Its engine died, and it may have been why."""
        self._strikes = 1 if self._progressed else self._strikes + 1
        if self._strikes >= GUILTY:
            self.fail(
                EngineFailed(f"The engine ended {GUILTY} times with this request; the last time: {message}")
            )

    # For the task that iterates.

    async def open(self) -> None:
        """Wait for a place and start there. Raises ApiError."""
        while True:
            await self._placed()
            if self._strikes >= SUSPECT and not self._tried:
                await self._trial.acquire()
                self._tried = True
                continue  # the place may have changed
            place = self._opened = self._place
            assert place is not None
            try:
                self._client = await self._pool.open(place.engine_id, self._request(), self)
            except EngineDied:
                continue
            self._sent, self._progressed = place, False
            self._clock.sent()
            return

    async def close(self) -> None:
        """Leave the engine, wherever it is by then."""
        self._end_trial()
        self._leave()
        self._unread.clear()  # an exception's frames may hold us until the garbage is collected

    def tap(self, tap: Tap) -> None:
        self._tap = tap

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> TextDelta:
        """What has come since the last one. Raises ApiError, and what the tap raised."""
        while not self._unread:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            if self._client is None:
                self._end_trial()
                await self.open()
            else:
                await self._woken()
        unread, self._unread = self._unread[:MAX_MERGED], self._unread[MAX_MERGED:]
        self._num_unread -= sum(map(_size, unread))
        return merged(unread)

    # For the engine's client.

    def push(self, delta: TokenDelta) -> None:
        """What goes wrong with it is raised where it is iterated."""
        if self._ended or self._error is not None:
            return  # it has not been left yet
        try:
            text = self._text(delta)
            if text is not None and not self._tapped(text):
                self._keep(text)
        except Exception as error:
            self._error = error
            self._leave()
        if self._unread or self._ended or self._error is not None:
            self._wake()

    def lose(self, message: str) -> None:
        self._client = None
        self._wake()

    def _tapped(self, text: TextDelta) -> bool:
        """Whether whoever iterates has taken all before it, waits, and need not be woken."""
        if self._tap is None or self._unread or self._waiter is None or self._waiter.done():
            return False
        return self._tap(text)

    def _keep(self, delta: TextDelta) -> None:
        if self._num_unread >= MAX_UNREAD:
            raise TooSlow(
                "The client does not keep up: too much of its stream is not read.", code="slow_reader"
            )
        self._unread.append(delta)
        self._num_unread += _size(delta)

    def _leave(self) -> None:
        if self._client is not None:
            self._client.leave(self._work.spec.task_id)
            self._client = None

    def _text(self, delta: TokenDelta) -> TextDelta | None:
        self._token_ids += delta.token_ids
        if not self._progressed:
            self._begun(delta)
        text = self._assembler.feed(delta)
        self._clock.tokens(len(delta.token_ids), delta.queue_ms)
        if text is not None and text.finish_reason is not None:
            self._ended = True
            self._clock.finish(text.finish_reason)
        return text

    def _begun(self, delta: TokenDelta) -> None:
        """The first delta of a life."""
        self._progressed = True
        self._end_trial()
        self._on_start(delta.id)
        if self.queue_ms is None:
            self.queue_ms = delta.queue_ms

    async def _placed(self) -> None:
        """Returns when there is another place than the one that it was opened on last. Raises ApiError."""
        while self._failure is None and (self._place is None or self._place is self._opened):
            await self._woken()
        if self._failure is not None:
            raise self._failure

    async def _woken(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end_trial(self) -> None:
        if self._tried:
            self._tried = False
            self._trial.release()

    def _request(self) -> Generate:
        work = self._work
        return Generate(
            id=work.spec.task_id,
            token_ids=(*work.token_ids, *self._token_ids),
            sampling=work.params.sampling,
            objective=self._objective,
            key=self._key,
            salts=work.salts,
            boundaries=work.boundaries,
            num_generated=len(self._token_ids),
            application=self._key[2] if self._objective.within_ms is None else FIRST,
            followed=work.followed,
        )


def _size(delta: TextDelta) -> int:
    return len(delta.token_ids) + sum(len(position.top) for position in delta.logprobs)

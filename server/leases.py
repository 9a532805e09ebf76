"""KV of a program that speaks turn by turn: kept for its next call, for a while.

Responsible for: telling the engine that a call which ended will be continued soon. What that is worth is the radix
tree's to say: it evicts first what is wanted later, and a lease that nobody used ends by itself. On an engine
without work no step passes, and nothing is evicted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engine.types import Hint
from server.scheduler.dispatcher import Dispatcher, Generation, Work
from server.tokenizer import Tokenizer

LEASE_STEPS = 256
"""The engine's steps until the next turn is expected; after as many more, the KV is like any other."""


@asynccontextmanager
async def leased(dispatcher: Dispatcher, work: Work, tokenizer: Tokenizer) -> AsyncIterator[Generation]:
    """As `Dispatcher.generate`; a generation that came to its end leaves its prompt and its output on lease."""
    async with dispatcher.generate(work, tokenizer) as generation:
        yield generation
        engine_id = generation.engine_id
    dispatcher.pool.hint(engine_id, Hint(id=work.spec.task_id, next_use=LEASE_STEPS))

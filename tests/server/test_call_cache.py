"""What makes two calls the same, and who generates when one of them goes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from engine.types import Objective, SamplingParams
from server.call_cache import MAX_ENDED, CallCache, Flight, key_of
from server.generation import GenerationParams, TextDelta
from server.tenant import ANONYMOUS, Tenant

GREEDY = GenerationParams(SamplingParams(max_tokens=5, seed=1, temperature=0.0))
SAMPLED = GenerationParams(SamplingParams(max_tokens=5, seed=1))


def test_greedy_calls_are_the_same_whatever_their_seed() -> None:
    other = GenerationParams(SamplingParams(max_tokens=5, seed=2, temperature=0.0))
    assert key_of(ANONYMOUS, [1, 2], GREEDY) == key_of(ANONYMOUS, [1, 2], other) is not None


def test_sampled_calls_are_the_same_only_with_the_clients_own_seed() -> None:
    assert key_of(ANONYMOUS, [1], SAMPLED) is None
    seeded = replace(SAMPLED, seeded=True)
    assert key_of(ANONYMOUS, [1], seeded) is not None
    other = GenerationParams(SamplingParams(max_tokens=5, seed=2), seeded=True)
    assert key_of(ANONYMOUS, [1], seeded) != key_of(ANONYMOUS, [1], other)


@pytest.mark.parametrize(
    ("tenant", "ids", "params"),
    [
        (Tenant("b", b"other"), [1, 2], GREEDY),
        (ANONYMOUS, [1, 3], GREEDY),
        (ANONYMOUS, [1, 2], GenerationParams(SamplingParams(max_tokens=6, seed=1, temperature=0.0))),
        (ANONYMOUS, [1, 2], replace(GREEDY, stop=("x",))),
    ],
)
def test_another_tenant_prompt_or_parameter_is_another_call(
    tenant: Tenant, ids: list[int], params: GenerationParams
) -> None:
    assert key_of(tenant, ids, params) != key_of(ANONYMOUS, [1, 2], GREEDY)


async def test_a_reader_gets_everything_from_the_beginning_and_what_comes() -> None:
    cache = CallCache()
    with cache.lead(b"k", 1, Objective()) as flight:
        flight.add(TextDelta("a", (1,)))
        found = cache.find(b"k")
        assert found is flight
        reader = asyncio.create_task(_read(found))
        await asyncio.sleep(0)
        flight.add(TextDelta("b", (2,), finish_reason="stop"))
    assert await reader == "ab"
    ended = cache.find(b"k")
    assert ended is not None
    assert ended.deltas == [TextDelta("ab", (1, 2), finish_reason="stop")], "one takes less memory than many"
    assert await _read(ended) == "ab"


async def test_when_the_leader_goes_its_readers_are_told_and_nothing_is_kept() -> None:
    cache = CallCache()

    async def lead() -> None:
        with cache.lead(b"k", 1, Objective()) as flight:
            flight.add(TextDelta("a", (1,)))
            await asyncio.Event().wait()

    leader = asyncio.create_task(lead())
    await asyncio.sleep(0)
    flight = cache.find(b"k")
    assert flight is not None
    reader = asyncio.create_task(_read(flight))
    leader.cancel()
    assert await reader == "a"
    assert flight.abandoned
    assert cache.find(b"k") is None


def test_what_has_ended_is_forgotten_in_the_order_of_use() -> None:
    cache = CallCache()
    for index in range(MAX_ENDED + 1):
        with cache.lead(str(index).encode(), index, Objective()):
            pass
        assert cache.find(b"0") is not None
    assert cache.find(b"1") is None


async def _read(flight: Flight) -> str:
    return "".join([delta.text async for delta in flight.read()])

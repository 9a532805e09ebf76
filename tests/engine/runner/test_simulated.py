"""The simulated runner: deterministic, paged like a real one, and as slow as it was told to be."""

from __future__ import annotations

import time

import msgspec
import pytest

from engine.config import EngineConfig, SimConfig
from engine.core import EngineCore
from engine.runner.loaded import LoadedRunner, LoadError
from engine.runner.simulated import load_runner
from engine.types import Generate, SamplingParams

INSTANT = SimConfig(base_ms=0, per_sequence_ms=0, per_prefill_token_ms=0)


def load(config: EngineConfig) -> LoadedRunner:
    return load_runner(config, lambda stage, fraction: None)


def run(requests: list[Generate], config: EngineConfig | None = None) -> dict[int, list[int]]:
    config = config or EngineConfig(kind="sim", sim=INSTANT)
    loaded = load(config)
    core = EngineCore(loaded.runner, loaded.ready, config.disabled)
    for request in requests:
        core.take(request)
    tokens: dict[int, list[int]] = {request.id: [] for request in requests}
    while core.has_work:
        for delta in core.step().deltas:
            tokens[delta.id].extend(delta.token_ids)
    return tokens


def a_request(request_id: int = 1, seed: int = 5, length: int = 300, **sampling: object) -> Generate:
    params = msgspec.structs.replace(SamplingParams(max_tokens=40, seed=seed), **sampling)
    return Generate(request_id, tuple(range(400, 400 + length)), params)


def test_tokens_do_not_depend_on_company_cache_or_pool() -> None:
    requests = [a_request(index, seed=index) for index in range(6)]
    alone = {index: run([request])[index] for index, request in enumerate(requests)}
    assert run(requests) == alone
    small = EngineConfig(kind="sim", sim=INSTANT, kv_cache_memory=14 * 64 * 1024, max_num_batched_tokens=64)
    assert run(requests, small) == alone


def test_tokens_are_text_of_a_real_vocabulary() -> None:
    tokens = run([a_request()])[1]
    assert min(tokens) >= 320
    assert max(tokens) < 4096
    assert len(set(tokens)) > 30


def test_another_seed_gives_other_tokens_unless_greedy() -> None:
    sampled = run([a_request(1, seed=1), a_request(2, seed=2)])
    assert sampled[1] != sampled[2]
    greedy = run([a_request(1, seed=1, temperature=0.0), a_request(2, seed=2, temperature=0.0)])
    assert greedy[1] == greedy[2]


def test_it_never_ends_by_itself() -> None:
    free = run([a_request()])[1]
    barred = run([a_request(eos_token_ids=tuple(free[:3]))])[1]
    assert len(barred) == 40
    assert not set(free[:3]) & set(barred)


def test_a_stop_token_ends_it_but_not_before_min_tokens() -> None:
    free = run([a_request()])[1]
    assert run([a_request(stop_token_ids=(free[3],))])[1] == free[:3]
    assert len(run([a_request(stop_token_ids=(free[3],), min_tokens=10)])[1]) >= 10


def test_a_step_takes_as_long_as_the_model_says() -> None:
    sim = SimConfig(base_ms=4, per_sequence_ms=1, per_prefill_token_ms=0.02, per_kv_token_ms=0.01)
    begun = time.perf_counter()
    run([a_request(length=100)], EngineConfig(kind="sim", sim=sim))
    taken = (time.perf_counter() - begun) * 1e3
    assert taken > 40 * 5 + 100 * 0.02 + 40 * 100 * 0.01


def test_what_does_not_fit_is_refused_with_the_number_and_the_flag() -> None:
    with pytest.raises(LoadError, match="--kv-cache-memory 1000 holds no block of 64 tokens"):
        load(EngineConfig(kind="sim", kv_cache_memory=1000))
    with pytest.raises(
        LoadError, match=r"--max-model-len 4096 needs 4194304 bytes.*--kv-cache-memory is 131072"
    ):
        load(EngineConfig(kind="sim", kv_cache_memory=2 * 64 * 1024, max_model_len=4096))


def test_ready_says_what_it_has() -> None:
    ready = load(EngineConfig(kind="sim", kv_cache_memory=2**20, max_num_seqs=7)).ready
    assert (ready.num_blocks, ready.block_size, ready.max_model_len) == (16, 64, 1024)
    assert (ready.max_num_seqs, ready.vocab_size, ready.kv_cache_bytes) == (7, 4096, 2**20)

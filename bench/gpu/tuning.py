"""The tuning table: for every head size and M tile the fastest of the committed configurations, ready to commit.

Candidates are the (block_n, warps, stages, programs) that `ops.kernels.configs` has for any head size and M tile:
nothing is invented here, and nothing is tuned when an engine runs. Each is timed alone on the work that its M tile
gets (decode, a shared prefix, prefill), for several groups and block sizes. On a GPU they are compiled ahead, in
processes, into Triton's cache. A candidate that does not fit the chip is left out; a wrong result fails the gate.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from bench.gpu.attention_case import Case, Layout, attention_call, make_case, right, uniform
from bench.gpu.machine import Machine
from bench.gpu.report import AddRow
from bench.gpu.sections import Bench
from ops.cuda_attention import AttentionShape
from ops.kernels import configs
from ops.kernels.configs import AttentionConfig

KV_HEADS = 8
LEAST = Layout(0, (20,))
"""The smallest work that compiles what the real work runs."""

Timed = tuple[float, AttentionConfig]
"""Seconds of a configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OneConfig(AttentionShape):
    """A shape whose tiles are all of one configuration."""

    config: AttentionConfig

    def configs(self) -> tuple[AttentionConfig, ...]:
        return (self.config,)


@dataclass(frozen=True, slots=True)
class Problem:
    """Heads of a model, the block size, and the M tile that a configuration is sought for."""

    head_dim: int
    group: int
    block_size: int
    block_m: int

    def __str__(self) -> str:
        return f"dim {self.head_dim}, group {self.group}, block {self.block_size}, M {self.block_m}"

    @property
    def committed(self) -> AttentionConfig | None:
        """What an engine uses for this problem now."""
        found = configs.attention_configs(self.head_dim, self.group, self.block_size, 2, False)
        return next((config for config in found if config.block_m == self.block_m), None)


def run(bench: Bench) -> None:
    bench.engines.close()
    row = bench.report.table(
        "attention configurations", "problem", "n", "warps", "stages", "programs", "us", "now us", "gain"
    )
    best: dict[tuple[int, int], list[Timed]] = {}
    with ExitStack() as stack:
        pool = stack.enter_context(_pool()) if bench.machine.cuda else None
        work = [(problem, _compile(pool, problem)) for problem in problems(bench.small)]
        for problem, compiled in work:
            if _ready(bench, problem, compiled) and (times := _times(bench, problem)):
                _print(row, problem, times)
                best.setdefault((problem.head_dim, problem.block_m), []).append(fastest(times))
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
    if best:
        bench.report.note(table(best))


def problems(small: bool) -> Iterator[Problem]:
    """What most models have first."""
    if small:
        yield Problem(32, 2, 64, 16)
        return
    for group, block_size in ((4, 64), (1, 64), (8, 64), (4, 16)):
        yield from (Problem(128, group, block_size, m) for m in configs.M_TILES if m >= group)
    for head_dim in (64, 256):
        yield from (Problem(head_dim, 4, 64, m) for m in configs.M_TILES)


def candidates(block_m: int) -> list[AttentionConfig]:
    """What is committed for any head size and M tile, on this M tile."""
    known = {
        (config.block_n, config.num_warps, config.num_stages, config.programs)
        for head_dim in (32, 64, 128, 256)
        for config in configs.attention_configs(head_dim, 1, 64, 2, False)
    }
    return [AttentionConfig(block_m, *values) for values in sorted(known)]


def fastest(times: Sequence[Timed]) -> Timed:
    return min(times, key=lambda item: item[0])


def table(best: dict[tuple[int, int], list[Timed]]) -> str:
    """Lines as `ops/kernels/configs.py` has them, keyed by (head size, M tile). Of several problems with the same
    key the slowest decides, because it moves the most."""
    lines = ["ready to commit to ops/kernels/configs.py: (block_n, warps, stages, programs)"]
    for (head_dim, block_m), found in sorted(best.items()):
        config = max(found, key=lambda item: item[0])[1]
        values = (config.block_n, config.num_warps, config.num_stages, config.programs)
        lines.append(f"    ({head_dim}, {block_m}): {values},")
    return "\n".join(lines)


def _print(row: AddRow, problem: Problem, times: Sequence[Timed]) -> None:
    seconds, config = fastest(times)
    now = next((value for value, tried in times if tried == problem.committed), None)
    row(
        str(problem),
        config.block_n,
        config.num_warps,
        config.num_stages,
        config.programs,
        seconds * 1e6,
        None if now is None else now * 1e6,
        None if now is None else now / seconds,
    )


def _times(bench: Bench, problem: Problem) -> list[Timed]:
    """Of every candidate that fits; none when one of them is wrong."""
    case = _case(bench.machine, problem, LEAST if bench.small else _layout(problem))
    tried = [problem.committed] if bench.small and problem.committed else candidates(problem.block_m)
    times: list[Timed] = []
    wrong: list[str] = []
    for config in tried:
        if not bench.time_for(f"{problem}, {config}"):
            break
        tried_once = _try(bench.machine, case, config)
        if tried_once is None:
            continue
        call, out = tried_once
        ok, detail = right(bench.machine, case, out, samples=8)
        if ok:
            times.append((bench.machine.seconds(call), config))
        else:
            wrong.append(f"{config}: {detail}")
    ok = bench.report.gate(
        str(problem), not wrong and bool(times), "; ".join(wrong) or f"{len(times)} are right"
    )
    return times if ok else []


def _try(
    machine: Machine, case: Case, config: AttentionConfig
) -> tuple[Callable[[], None], torch.Tensor] | None:
    """The call and its result, after it ran once; None when the chip has no room for the configuration."""
    of = case.shape
    shape = OneConfig(
        heads=of.heads,
        kv_heads=of.kv_heads,
        head_dim=of.head_dim,
        block_size=of.block_size,
        dtype=of.dtype,
        scale=of.scale,
        group_major=of.group_major,
        config=config,
    )
    try:
        call, out = attention_call(machine, case, share=True, shape=shape)
        call()
        machine.synchronize()
    except Exception as reason:
        if (
            type(reason).__name__ == "OutOfResources"
        ):  # Triton's: too much shared memory or too many registers
            return None
        raise
    return call, out


def _case(machine: Machine, problem: Problem, layout: Layout) -> Case:
    """With as many KV heads as most models have; the kernels are compiled for them."""
    heads = KV_HEADS * problem.group
    dim = problem.head_dim
    shape = AttentionShape(
        heads, KV_HEADS, dim, problem.block_size, machine.dtype, dim**-0.5, group_major=True
    )
    return make_case(machine, layout, shape)


def _layout(problem: Problem) -> Layout:
    """The work that this M tile gets: decode rows, a shared prefix for as many as it holds, or a prompt."""
    rows = problem.block_m // problem.group
    if rows <= 4:
        return Layout(0, (4096,) * 32)
    if problem.block_m < configs.M_TILES[-1]:
        return Layout(8192, uniform(problem.block_m, rows, 1, 64))
    return Layout(0, (4096,), 4096)


def _pool() -> ProcessPoolExecutor:
    count = max(1, min(8, (os.cpu_count() or 2) // 2))
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))


def _compile(pool: ProcessPoolExecutor | None, problem: Problem) -> list[Future[None]]:
    if pool is None:
        return []
    return [pool.submit(compile_ahead, problem, config) for config in candidates(problem.block_m)]


def compile_ahead(problem: Problem, config: AttentionConfig) -> None:
    """In a process of its own: run the kernel once on the smallest work, so that Triton's cache on disk has it."""
    machine = Machine(torch.device("cuda"), torch.bfloat16, True, 1, 1.0, 1.0)
    _try(machine, _case(machine, problem, LEAST), config)


def _ready(bench: Bench, problem: Problem, compiled: list[Future[None]]) -> bool:
    """Whether the candidates are compiled before the section's time is over."""
    done = wait(compiled, timeout=max(0.0, bench.deadline - time.monotonic()))
    return bench.time_for(str(problem), 1.0) and not done.not_done

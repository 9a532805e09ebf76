"""The side-by-side comparison: same prompts for all, answers that are checked, processes by what they are."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from bench.checkpoint import TINY, checkpoint, load_tokenizer, words
from bench.peers.comparison import Comparison
from bench.peers.contestants import Contestant, ours
from bench.peers.load import LOADS, Load, Streamed, Unusable, run
from bench.peers.table import table


@pytest.fixture(scope="module")
def folder() -> Path:
    return checkpoint(TINY)


def _simulated(folder: Path, step_ms: str = "3") -> Contestant:
    return ours(folder, ("--engine", "sim", "--sim-step-ms", step_ms))


def test_prompts_of_a_load_are_a_function_of_its_seed_and_share_what_they_should() -> None:
    for load in LOADS:
        prompts = load.prompts(range(100, 900), "3")
        assert prompts == load.prompts(range(100, 900), "3") != load.prompts(range(100, 900), "4")
        assert {len(prompt) for prompt in prompts} == {load.shared + load.own}
        assert len({tuple(prompt[: load.shared]) for prompt in prompts}) == 1
        assert len({tuple(prompt) for prompt in prompts}) == load.requests


def test_prompts_are_the_same_as_text_and_as_ids(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    for prompt in LOADS[0].prompts(words(tokenizer), "0"):
        assert tokenizer.encode(tokenizer.decode(prompt)).ids == prompt


def test_time_per_token_leaves_out_the_first() -> None:
    assert Streamed(ttft=1.0, gaps=[0.002, 0.004], tokens=4).per_token_ms == pytest.approx(2.0)


def test_two_servers_run_every_load_and_their_processes_are_named(folder: Path) -> None:
    load = Load("concurrent", 4, 2, 0, 12, 6)
    other = _simulated(folder)
    contestants = [
        _simulated(folder),
        Contestant("other", other.command, other.environment, ready=other.ready),
    ]
    with Comparison(folder, contestants, [load]) as comparison:
        comparison.rounds(2)
    for seen in comparison.seen.values():
        assert [run.tokens for run in seen.runs["concurrent"]] == [24, 24]
        assert {"run_server.py", "engine.worker", "client"} <= set(seen.runs["concurrent"][0].cpu)
        assert seen.cold_start_s[0] > 0
        assert seen.resident_mb > 20
    assert table("tiny", [load], comparison.seen).count("concurrent") == 2


def test_an_answer_of_another_length_is_an_error(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    asked = Load("single", 1, 1, 0, 8, 6)
    contestant = _simulated(folder)
    with contestant.running() as peer, pytest.raises(RuntimeError, match="asked for 8 \\+ 6 tokens"):
        asyncio.run(run(asked, [words(tokenizer)[:9]], tokenizer, contestant, peer))


def test_chunks_that_come_at_once_are_no_measurement(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    contestant = Contestant("bursts", (sys.executable, str(Path(__file__).parent / "burst_server.py")))
    load = Load("single", 1, 1, 0, 8, 6)
    with contestant.running() as peer, pytest.raises(Unusable, match="came at once"):
        asyncio.run(run(load, load.prompts(words(tokenizer), "0"), tokenizer, contestant, peer))

"""The contract: a position's logits are a function of its own sequence's ids, to the bit."""

from __future__ import annotations

import random
from typing import Literal

import pytest
import torch

from engine.config import EngineConfig
from engine.runner.model_runner import ModelRunner
from engine.runner.threads import fixed_threads
from tests.engine.step_driver import StepDriver, load, write_config

LENGTH = 540
"""Three chunks of keys."""

Logits = dict[int, torch.Tensor]
Way = tuple[Literal["float32", "bfloat16"], frozenset[str]]

WAYS: dict[str, Way] = {
    "torch-float32": ("float32", frozenset({"compiled-kernels"})),
    "torch-bfloat16": ("bfloat16", frozenset()),
    "compiled": ("float32", frozenset()),
}
"""Of computing: a dtype, and what is disabled."""

FAMILIES: dict[str, dict[str, int | float | bool | str | list[str] | None]] = {
    "llama": {},
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "head_dim": 32,
        "num_key_value_heads": 3,
        "hidden_size": 80,
    },
    "mistral": {"architectures": ["MistralForCausalLM"], "sliding_window": 150, "num_key_value_heads": 1},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "num_attention_heads": 4, "num_key_value_heads": 4},
}


class Case:
    """A loaded runner, two sequences with a common prefix, and what each position's logits are, one row at a
    time.
    """

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner
        rng = random.Random(7)
        prefix = tuple(rng.randrange(runner.vocab_size) for _ in range(330))
        self.ids = {
            name: prefix + tuple(rng.randrange(runner.vocab_size) for _ in range(LENGTH - 330))
            for name in ("a", "b")
        }
        self.expected = {"a": self.alone("a", 1), "b": self.alone("b", 1, begin=329)}

    def alone(self, name: str, chunk: int, shuffled: bool = False, begin: int = 0) -> Logits:
        driver = StepDriver(self.runner, random.Random(chunk), shuffled)
        driver.add(name, self.ids[name])
        if begin:
            driver.step({name: begin})
        return driver.run_alone(name, chunk)

    def check(self, found: dict[tuple[str, int], torch.Tensor]) -> None:
        for (name, position), logits in found.items():
            expected = self.expected["a" if position < 330 else name[0]]  # the prefix is the same
            assert torch.equal(logits, expected[position]), (name, position)


@pytest.fixture(scope="module", params=list(WAYS))
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


@pytest.fixture(scope="module", params=list(FAMILIES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, way: Way) -> Case:
    folder = write_config(tmp_path_factory.mktemp("model"), **FAMILIES[request.param])
    dtype, disabled = way
    config = EngineConfig(
        model=str(folder),
        load_format="dummy",
        dtype=dtype,
        block_size=32,
        kv_cache_memory=24 * 2**20,
        num_threads=2,
        disabled=disabled,
    )
    runner = load(config)
    runner.choose_threads(fixed_threads(1))
    return Case(runner)


@pytest.mark.parametrize(("chunk", "begin"), [(2, 400), (7, 200), (64, 0), (250, 0), (512, 0)])
def test_any_prefill_chunk_size_gives_the_same_logits(case: Case, chunk: int, begin: int) -> None:
    case.check({("a", at): row for at, row in case.alone("a", chunk, begin=begin).items()})


def test_scattered_blocks_give_the_same_logits(case: Case) -> None:
    case.check({("a", at): row for at, row in case.alone("a", 37, shuffled=True).items()})


@pytest.mark.parametrize("share", [True, False])
def test_prefix_hits_and_shared_tiles_give_the_same_logits(case: Case, share: bool) -> None:
    driver = StepDriver(case.runner, random.Random(1), share=share)
    driver.add("a", case.ids["a"])
    case.check(driver.step({"a": 400}))
    driver.add("b", case.ids["b"], prefix_of="a", cached=320)
    driver.add("b2", case.ids["b"], prefix_of="a", cached=256)
    case.check(driver.step({"a": 1, "b": 9, "b2": 130}))
    for length in (1, 1, 20, 3):
        case.check(driver.step({"a": length, "b": 1, "b2": 1}))


def test_random_batches_give_the_same_logits(case: Case) -> None:
    rng = random.Random(3)
    driver = StepDriver(case.runner, rng, shuffled=True)
    for number in range(8):
        name = rng.choice("ab")
        driver.add(f"{name}{number}", case.ids[name])
    for _ in range(25):
        live = [name for name, item in driver.sequences.items() if item.computed < LENGTH]
        chosen = rng.sample(live, rng.randint(1, len(live)))
        lengths = {
            name: min(rng.choice([1, 1, 1, 2, 5, 33, 120]), LENGTH - driver.sequences[name].computed)
            for name in chosen
        }
        case.check(driver.step(lengths))


def test_recompute_after_preemption_gives_the_same_logits(case: Case) -> None:
    driver = StepDriver(case.runner, random.Random(4))
    driver.add("a", case.ids["a"])
    driver.add("b", case.ids["b"])
    case.check(driver.step({"a": 300, "b": 70}))
    driver.preempt("a")
    for lengths in ({"a": 100, "b": 1}, {"a": 201}, {"a": 1, "b": 1}):
        case.check(driver.step(lengths))


def test_two_threads_give_the_same_logits(case: Case) -> None:
    case.runner.choose_threads(fixed_threads(2))
    try:
        for chunk, begin in ((1, 450), (90, 0), (512, 0)):
            case.check({("a", at): row for at, row in case.alone("a", chunk, begin=begin).items()})
        driver = StepDriver(case.runner, random.Random(5))
        driver.add("a", case.ids["a"])
        driver.add("b", case.ids["b"])
        case.check(driver.step({"a": 333, "b": 40}))
        case.check(driver.step({"a": 1, "b": 1}))
    finally:
        case.runner.choose_threads(fixed_threads(1))
        torch.set_num_threads(1)

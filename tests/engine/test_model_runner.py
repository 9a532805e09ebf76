"""The runner as a whole: sizing, steps through `run`, failures of one sequence, what `Ready` says."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Literal

import msgspec
import pytest
import torch

from engine.batch import SampledTokens, ScheduledBatch, ScheduledSequence, SlotInstall
from engine.config import EngineConfig
from engine.models.config import load_config
from engine.plan import Rows, build_plan
from engine.runner.cpu_loader import load_runner
from engine.runner.kv_cache import size_kv_cache
from engine.runner.model_runner import ModelRunner
from engine.runner.threads import fixed_threads
from engine.types import SamplingParams
from tests.engine.step_driver import GREEDY, StepDriver, load, write_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("model"))


def _config(folder: Path) -> EngineConfig:
    return EngineConfig(
        model=str(folder), load_format="dummy", kv_cache_memory=2 * 2**20, max_model_len=512, num_threads=1
    )


@pytest.fixture(scope="module")
def runner(folder: Path) -> ModelRunner:
    return load(_config(folder))


class Slots:
    """Sequences in slots, driven through `run`: `start` prefills, `decode` takes one token of each."""

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner
        self.lengths: dict[int, int] = {}
        self.steps = 0

    def blocks(self, slot: int) -> list[int]:
        return [1 + 4 * slot + i for i in range(4)]

    def start(self, slot: int, ids: tuple[int, ...], params: SamplingParams = GREEDY) -> SampledTokens:
        return self._run(
            [ScheduledSequence(slot, 0, len(ids), ids, sample=True)], (SlotInstall(slot, params, ids),)
        )

    def decode(self, *slots: int) -> SampledTokens:
        return self._run([ScheduledSequence(slot, self.lengths[slot], 1, None, True) for slot in slots])

    def _run(
        self, sequences: list[ScheduledSequence], installs: tuple[SlotInstall, ...] = ()
    ) -> SampledTokens:
        self.steps += 1
        rows = [Rows(item.start, item.length, self.blocks(item.slot)) for item in sequences]
        tables = {install.slot: tuple(self.blocks(install.slot)) for install in installs}
        plan = build_plan(rows, self.runner.block_size, share=True)
        for item in sequences:
            self.lengths[item.slot] = item.start + item.length
        return self.runner.run(
            ScheduledBatch(self.steps, tuple(sequences), plan, installs=installs, block_tables=tables)
        )


def _greedy_tokens(runner: ModelRunner, ids: tuple[int, ...], number: int) -> list[int]:
    slots = Slots(runner)
    tokens = [slots.start(0, ids).tokens[0].token_id]
    return tokens + [slots.decode(0).tokens[0].token_id for _ in range(number - 1)]


def test_decode_rows_take_the_slots_last_sample(runner: ModelRunner) -> None:
    ids = (3, 1, 4, 1, 5)
    tokens = _greedy_tokens(runner, ids, 6)
    for step in range(1, 6):
        assert _greedy_tokens(runner, ids + tuple(tokens[:step]), 1) == [tokens[step]]


def test_results_carry_the_step_and_the_slots_in_the_order_of_the_batch(runner: ModelRunner) -> None:
    slots = Slots(runner)
    for slot in range(4):
        slots.start(slot, (slot + 1, 7))
    found = slots.decode(2, 0, 3)
    assert found.step_id == slots.steps
    assert [token.slot for token in found.tokens] == [2, 0, 3]


def test_a_step_without_samples_gives_no_tokens(runner: ModelRunner) -> None:
    ids = tuple(range(1, 20))
    batch = ScheduledBatch(
        1,
        (ScheduledSequence(0, 0, len(ids), ids, sample=False),),
        build_plan([Rows(0, len(ids), [1])], runner.block_size, share=True),
        block_tables={0: (1,)},
    )
    assert runner.run(batch) == SampledTokens(1, ())


def test_a_copied_block_serves_as_the_original(runner: ModelRunner) -> None:
    ids = tuple(range(1, 41))
    slots = Slots(runner)
    expected = slots.start(0, ids).tokens[0].token_id
    batch = ScheduledBatch(
        2,
        (ScheduledSequence(1, 39, 1, ids[39:], sample=True),),
        build_plan([Rows(39, 1, [9])], runner.block_size, share=True),
        installs=(SlotInstall(1, GREEDY, ids),),
        block_tables={1: (9,)},
        copies=((1, 9, 39),),
    )
    assert runner.run(batch).tokens[0].token_id == expected


def test_an_id_that_is_not_in_the_vocabulary_fails_its_sequence_alone(runner: ModelRunner) -> None:
    slots = Slots(runner)
    good = slots.start(0, (5, 6, 7)).tokens[0]
    bad = slots.start(1, (5, runner.vocab_size, 7)).tokens[0]
    assert good.error is None
    assert bad.error == "a token id is not in the vocabulary"
    after = slots.decode(0).tokens[0]
    assert after.error is None
    assert [good.token_id, after.token_id] == _greedy_tokens(runner, (5, 6, 7), 2)


def test_nan_in_one_sequence_fails_it_alone_and_leaves_its_blocks_clean(folder: Path) -> None:
    runner = load(_config(folder))
    expected = _greedy_tokens(runner, (5, 6, 7), 3)
    slots = Slots(runner)
    slots.start(0, (5, 6, 7))
    slots.start(1, (8, 9))
    size = runner.block_size
    for pool in runner._cache.layers:
        pool[:, slots.blocks(1)[0] * size] = torch.nan
    failed = slots.decode(0, 1).tokens
    assert [token.error is None for token in failed] == [True, False]
    assert failed[0].token_id == expected[1]
    # The same blocks now serve others, whose masked keys are what the failed one left.
    assert slots.start(1, (5, 6, 7)).tokens[0].token_id == expected[0]
    assert slots.decode(1).tokens[0].token_id == expected[1]


def test_dummy_weights_are_a_function_of_the_seed(folder: Path) -> None:
    same = [_greedy_tokens(load(_config(folder)), (1, 2, 3), 5) for _ in range(2)]
    assert same[0] == same[1]
    other = load(msgspec.structs.replace(_config(folder), seed=1))
    assert _greedy_tokens(other, (1, 2, 3), 5) != same[0]


def test_ready_says_what_the_server_needs(folder: Path) -> None:
    stages: list[str] = []
    loaded = load_runner(_config(folder), lambda stage, fraction: stages.append(stage))
    ready = loaded.ready
    assert (ready.block_size, ready.max_model_len, ready.vocab_size) == (64, 512, 131)
    assert ready.num_blocks == loaded.runner.num_blocks - 1
    assert ready.kv_cache_bytes <= 2 * 2**20 < ready.kv_cache_bytes + 100_000
    assert ready.dtype in ("bfloat16", "float32")
    assert (ready.device, ready.num_threads, ready.tokenizer) == ("cpu", 1, None)
    assert stages[0] == "loading weights"


def test_the_kv_cache_is_said_in_a_line_with_its_flag(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        size_kv_cache(_config(folder), load_config(folder), torch.float32, 2**30)
    assert "KV cache: 2 MiB, 2624 tokens in 41 blocks of 64 (--kv-cache-memory changes it)" in caplog.text


def test_a_default_kv_cache_is_a_quarter_of_free_memory_up_to_256_mib(folder: Path) -> None:
    config = msgspec.structs.replace(_config(folder), kv_cache_memory=None)
    model = load_config(folder)
    for free, limit in ((2**40, 192 * 2**20), (2**28, 2**26)):
        total = size_kv_cache(config, model, torch.bfloat16, free).total_bytes
        assert limit - 100_000 < total <= limit


def test_a_length_that_the_memory_does_not_hold_is_lowered_or_refused_with_the_flag(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_config(folder)
    config = msgspec.structs.replace(_config(folder), kv_cache_memory=300_000, max_model_len=None)
    assert size_kv_cache(config, model, torch.float32, 0).max_model_len == 320
    assert "max_model_len lowered to 320" in caplog.text
    assert "--kv-cache-memory" in caplog.text
    with pytest.raises(ValueError, match=r"holds 320 tokens only; --kv-cache-memory \d+ would hold 512"):
        size_kv_cache(msgspec.structs.replace(config, max_model_len=512), model, torch.float32, 0)
    with pytest.raises(ValueError, match="set --kv-cache-memory to 98304 or more"):
        size_kv_cache(msgspec.structs.replace(config, kv_cache_memory=1000), model, torch.float32, 0)
    with pytest.raises(ValueError, match="exceeds the 2048 positions"):
        size_kv_cache(msgspec.structs.replace(config, max_model_len=4096), model, torch.float32, 0)


def test_the_number_of_threads_is_chosen_by_timing_unless_it_is_given(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = torch.get_num_threads()
    try:
        with caplog.at_level("INFO"):
            load(msgspec.structs.replace(_config(folder), num_threads=None))
        assert "threads: " in caplog.text
        runner = load(_config(folder))
        runner.choose_threads(fixed_threads(2))
        _greedy_tokens(runner, (1, 2), 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("dtype", "packs"), [("float32", True), ("float32", False), ("bfloat16", False), ("float16", False)]
)
def test_with_packed_or_plain_weights_alone_the_contract_still_holds(
    folder: Path,
    dtype: Literal["float32", "bfloat16", "float16"],
    packs: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ops.linear._LARGE", 0)
    if not packs:
        monkeypatch.setattr("ops.linear.can_pack", lambda dtype: False)
    runner = load(
        msgspec.structs.replace(_config(folder), dtype=dtype, disabled=frozenset({"compiled-kernels"}))
    )
    ids = tuple(number * 7 % 131 for number in range(300))
    by_chunk = []
    for chunk in (1, 45):
        driver = StepDriver(runner, random.Random(0))
        driver.add("a", ids)
        by_chunk.append(driver.run_alone("a", chunk))
    for position, logits in by_chunk[1].items():
        assert torch.equal(logits, by_chunk[0][position])


def test_loading_does_not_import_transformers(folder: Path) -> None:
    code = (
        "import sys; from engine.config import EngineConfig;"
        "from engine.runner.cpu_loader import load_runner;"
        f"load_runner(EngineConfig(model={str(folder)!r}, load_format='dummy', kv_cache_memory=2**21,"
        "max_model_len=512), lambda stage, fraction: None);"
        "sys.exit('transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_tokenizer_without_json_is_converted_in_the_engine(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    write_config(tmp_path)
    (tmp_path / "vocab.json").write_text('{"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    assert transformers
    text = load_runner(_config(tmp_path), lambda stage, fraction: None).ready.tokenizer
    assert text is not None
    assert tokenizers.Tokenizer.from_str(text.decode()).encode("abb").ids == [3, 2]

"""Every family against transformers, on small random checkpoints."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine.config import EngineConfig
from engine.models.config import load_config, parse_config
from engine.models.decoder import Decoder
from engine.models.loader import FolderWeights
from engine.runner.loaded import LoadError
from engine.runner.model_runner import ModelRunner
from ops.dispatch import cpu_ops
from tests.engine.step_driver import StepDriver, load

transformers = pytest.importorskip("transformers")

LENGTH = 330

SIZES = {
    "vocab_size": 211,
    "hidden_size": 64,
    "intermediate_size": 120,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 128}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}

CASES: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama3-rope": ("Llama", {"rope_parameters": LLAMA3}),
    "llama-linear-rope": ("Llama", {"rope_parameters": LINEAR}),
    "llama-dynamic-rope": ("Llama", {"rope_parameters": DYNAMIC}),
    "mistral-window": ("Mistral", {"sliding_window": 70, "num_key_value_heads": 1, "head_dim": 24}),
    "mistral-full": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {}),
    "qwen2-some-windows": (
        "Qwen2",
        {
            "use_sliding_window": True,
            "sliding_window": 40,
            "max_window_layers": 1,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "qwen3-yarn": ("Qwen3", {"head_dim": 16, "rope_parameters": YARN}),
}


class Checkpoint:
    """A random model, saved as transformers saves it and still in memory."""

    def __init__(self, folder: Path, family: str, changes: dict[str, object], **save: object) -> None:
        torch.manual_seed(11)
        sizes: dict[str, Any] = {**SIZES, **changes}
        self.folder = folder
        self.model = getattr(transformers, f"{family}ForCausalLM")(
            getattr(transformers, f"{family}Config")(**sizes)
        )
        for name, tensor in self.model.named_parameters():
            if name.endswith(("bias", "norm.weight")):
                torch.nn.init.uniform_(tensor, 0.4, 1.6)
        self.model.eval().save_pretrained(folder, **save)

    def logits(self, ids: tuple[int, ...]) -> torch.Tensor:
        with torch.inference_mode():
            result: torch.Tensor = self.model(torch.tensor([ids])).logits[0]
        return result

    def load(self, dtype: str = "float32") -> ModelRunner:
        config = EngineConfig(model=str(self.folder), dtype=dtype, kv_cache_memory=8 * 2**20, num_threads=1)  # type: ignore[arg-type]
        return load(config)


@pytest.fixture(scope="module", params=list(CASES))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    family, changes = CASES[request.param]
    return Checkpoint(tmp_path_factory.mktemp("checkpoint"), family, changes)


def _ids(length: int, seed: int = 0) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(SIZES["vocab_size"]) for _ in range(length))  # type: ignore[arg-type]


def test_fp32_logits_and_greedy_tokens_are_those_of_transformers(checkpoint: Checkpoint) -> None:
    ids = _ids(LENGTH)
    expected = checkpoint.logits(ids)
    driver = StepDriver(checkpoint.load(), random.Random(0))
    driver.add("a", ids)
    found = driver.run_alone("a", 33) | {}
    for position, logits in found.items():
        _check_row(logits, expected[position])
    driver.add("b", ids, prefix_of="a", cached=256)
    for position, logits in driver.run_alone("b", 1).items():
        _check_row(logits, expected[position])


def _check_row(logits: torch.Tensor, expected: torch.Tensor) -> None:
    error = (logits - expected).norm() / expected.norm()
    assert error < 1e-4, error
    best, second = expected.topk(2).values
    if best - second > 1e-4:
        assert logits.argmax() == expected.argmax()


def test_bf16_logits_are_near_those_of_transformers(checkpoint: Checkpoint) -> None:
    ids = _ids(LENGTH)
    expected = checkpoint.logits(ids)
    driver = StepDriver(checkpoint.load("bfloat16"), random.Random(0))
    driver.add("a", ids)
    for position, logits in driver.run_alone("a", 60).items():
        error = (logits.float() - expected[position]).norm() / expected[position].norm()
        assert error < 0.15, (
            error
        )  # random weights of this size amplify; the ops' own tolerances are in tests/ops


def test_a_sharded_checkpoint_loads_like_a_single_file(tmp_path: Path) -> None:
    sharded = Checkpoint(tmp_path / "sharded", "Llama", {}, max_shard_size="40KB")
    single = Checkpoint(tmp_path / "single", "Llama", {})
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    ids = _ids(20)
    rows = []
    for folder in (sharded, single):
        driver = StepDriver(folder.load(), random.Random(0))
        driver.add("a", ids)
        rows.append(driver.run_alone("a", 20)[19])
    assert torch.equal(*rows)


def test_an_architecture_that_is_not_supported_is_refused_by_name() -> None:
    with pytest.raises(
        ValueError, match=r"BertForMaskedLM is not supported; supported: LlamaForCausalLM, Mistral"
    ):
        parse_config(b'{"architectures": ["BertForMaskedLM"]}')


def test_a_rope_scaling_that_is_not_supported_is_refused_by_name() -> None:
    config = (
        b'{"architectures":["LlamaForCausalLM"],"vocab_size":8,"hidden_size":8,"intermediate_size":8,'
        b'"num_hidden_layers":1,"num_attention_heads":1,"rope_scaling":{"rope_type":"longrope"}}'
    )
    with pytest.raises(ValueError, match="'longrope' is not supported; supported: default, linear"):
        parse_config(config)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "never pickled weights",
        ),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: "),
    ],
)
def test_a_spoilt_folder_is_refused_with_a_line_that_says_why(
    tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    checkpoint = Checkpoint(tmp_path, "Llama", {})
    spoil(tmp_path)
    with pytest.raises(LoadError, match=message):
        checkpoint.load()


def test_a_tensor_of_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    Checkpoint(tmp_path, "Llama", {})
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(
        text.replace('"intermediate_size": 120', '"intermediate_size": 124')
    )
    weights = FolderWeights(tmp_path, torch.float32, lambda fraction: None)
    with pytest.raises(ValueError, match=r"mlp\.gate_proj\.weight has shape \(120, 64\), not \(124, 64\)"):
        Decoder(load_config(tmp_path), weights, cpu_ops(torch.float32))


def test_a_dtype_that_may_be_kept_is_not_converted_and_others_are(tmp_path: Path) -> None:
    stored = {"half": torch.bfloat16, "whole": torch.float64}
    save_file(
        {name: torch.ones(3, dtype=dtype) for name, dtype in stored.items()}, tmp_path / "model.safetensors"
    )
    weights = FolderWeights(tmp_path, torch.float32, lambda fraction: None, kept=torch.bfloat16)
    assert [weights.get(name, (3,)).dtype for name in stored] == [torch.bfloat16, torch.float32]


def test_loading_reports_its_progress_to_the_end(tmp_path: Path) -> None:
    Checkpoint(tmp_path, "Llama", {})
    seen: list[float] = []
    Decoder(
        load_config(tmp_path), FolderWeights(tmp_path, torch.float32, seen.append), cpu_ops(torch.float32)
    )
    assert seen == sorted(seen)
    assert seen[-1] == 1.0

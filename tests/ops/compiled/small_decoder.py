"""A small decoder with random weights, driven by hand: rows of sequences whose blocks the test chooses."""

from __future__ import annotations

import zlib

import msgspec
import numpy as np
import torch

from engine.batch import ScheduledSequence
from engine.models.compiled import CompiledDecoder
from engine.models.config import parse_config
from engine.plan import Rows, build_plan
from engine.runner.batch import StepInputs
from ops.compiled.decoder import Pool

BLOCK, BLOCKS = 16, 64
VOCAB = 100
SLOTS = BLOCK * BLOCKS

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "tie_word_embeddings": True,
}


class Random:
    """Weights that are a function of their name, rounded to bfloat16 or not, handed out in a dtype."""

    def __init__(self, *, rounded: bool, dtype: torch.dtype = torch.float32) -> None:
        self._rounded, self._dtype = rounded, dtype

    def get(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        weight = torch.randn(shape, generator=generator) * 0.3 + ("norm" in name)
        return (weight.bfloat16() if self._rounded else weight).to(self._dtype)


class Small:
    """A decoder and its pool. `dtype` is what the checkpoint's config says."""

    def __init__(
        self,
        weights: Random | None = None,
        *,
        dtype: str = "float32",
        threads: int = 1,
        max_rows: int = 256,
    ) -> None:
        config = parse_config(msgspec.json.encode({**CONFIG, "dtype": dtype}))
        dim = config.head_dim
        self.kv = torch.zeros(config.num_layers, 2 * config.num_kv_heads, SLOTS, dim)
        pool = Pool(self.kv.view(-1).numpy(), SLOTS, BLOCK)
        weights = weights or Random(rounded=False)
        self.decoder = CompiledDecoder(config, weights, SLOTS, pool, max_rows, threads)

    def step(self, sequences: list[Rows], seed: int = 0, scored: bool = False) -> torch.Tensor:
        """Logits of each sequence's last row; `scored`: and of all rows behind them. Ids are a function of seed and
        position."""
        inputs, plan = _inputs(sequences, seed, scored), build_plan(sequences, BLOCK, share=True)
        return self.decoder.compute(inputs, plan).clone()


def _inputs(sequences: list[Rows], seed: int, scored: bool) -> StepInputs:
    positions = np.concatenate([np.arange(each.start, each.start + each.length) for each in sequences])
    ends = np.cumsum([each.length for each in sequences])
    slots = [
        each.blocks[at // BLOCK] * BLOCK + at % BLOCK
        for each in sequences
        for at in range(each.start, each.start + each.length)
    ]
    wanted = np.concatenate((ends - 1, np.arange(ends[-1]))) if scored else ends - 1
    scheduled = tuple(
        ScheduledSequence(i, each.start, each.length, None, True) for i, each in enumerate(sequences)
    )
    return StepInputs(
        positions=positions,
        ids=torch.from_numpy((positions * 7 + seed) % VOCAB),
        padded_positions=torch.from_numpy(positions),
        kv_slots=torch.tensor(slots),
        logit_rows=torch.from_numpy(wanted),
        sampled=scheduled,
        invalid=frozenset(),
        scored=scheduled if scored else (),
    )

"""Drives a ModelRunner by hand: block tables, batches and plans, without the scheduler.

Any schedule that a scheduler could come up with can be spelled out here, and the logits of the last row of
every sequence of every step are handed back.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch

from engine.batch import ScheduledBatch, ScheduledSequence, SlotInstall
from engine.config import EngineConfig
from engine.plan import Rows, build_plan
from engine.runner.cpu_loader import load_runner
from engine.runner.model_runner import ModelRunner
from engine.types import SamplingParams

GREEDY = SamplingParams(max_tokens=1 << 20, seed=0, temperature=0.0)

Dimensions = dict[str, int | float | bool | str | list[str] | None]

SMALL: Dimensions = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 131,
    "hidden_size": 96,
    "intermediate_size": 100,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


def write_config(folder: Path, **changes: int | float | bool | str | list[str] | None) -> Path:
    """A folder with a config.json of a small model, for dummy weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_bytes(msgspec.json.encode({**SMALL, **changes}))
    return folder


def load(config: EngineConfig) -> ModelRunner:
    """Load without progress."""
    runner = load_runner(config, lambda stage, fraction: None).runner
    assert isinstance(runner, ModelRunner)
    return runner


@dataclass(slots=True)
class DrivenSequence:
    ids: tuple[int, ...]
    slot: int
    blocks: list[int]
    computed: int = 0
    installed: bool = False


@dataclass(slots=True)
class StepDriver:
    """One use of a runner. `shuffled`: blocks are handed out in random order, else ascending."""

    runner: ModelRunner
    rng: random.Random
    shuffled: bool = False
    share: bool = True
    sequences: dict[str, DrivenSequence] = field(default_factory=dict)
    _free: list[int] = field(default_factory=list)
    _step: int = 0

    def __post_init__(self) -> None:
        self._free = list(range(self.runner.num_blocks - 1, 0, -1))
        if self.shuffled:
            self.rng.shuffle(self._free)

    def add(self, name: str, ids: tuple[int, ...], *, prefix_of: str | None = None, cached: int = 0) -> None:
        """A sequence; with `prefix_of`, its first `cached` tokens (whole blocks) are that one's pages: a
        cache hit.
        """
        size = self.runner.block_size
        blocks = [] if prefix_of is None else self.sequences[prefix_of].blocks[: cached // size]
        slot = next(i for i in range(64) if i not in {item.slot for item in self.sequences.values()})
        need = -(-len(ids) // size) - len(blocks)
        self.sequences[name] = DrivenSequence(
            ids, slot, blocks + [self._free.pop() for _ in range(need)], cached
        )

    def preempt(self, name: str) -> None:
        """Its blocks are gone; it starts again in others."""
        ids = self.sequences.pop(name).ids
        self.add(name, ids)

    def step(self, lengths: dict[str, int]) -> dict[tuple[str, int], torch.Tensor]:
        """Compute so many tokens of these sequences; logits by (name, position of the last)."""
        names = sorted(lengths, key=lambda name: self.sequences[name].blocks)
        scheduled: list[ScheduledSequence] = []
        installs: list[SlotInstall] = []
        for name in names:
            item = self.sequences[name]
            ids = item.ids[item.computed : item.computed + lengths[name]]
            scheduled.append(ScheduledSequence(item.slot, item.computed, len(ids), ids, sample=True))
            if not item.installed:
                installs.append(SlotInstall(item.slot, GREEDY, item.ids))
                item.installed = True
        rows = [
            Rows(part.start, part.length, self.sequences[name].blocks)
            for part, name in zip(scheduled, names, strict=True)
        ]
        self._step += 1
        batch = ScheduledBatch(
            step_id=self._step,
            sequences=tuple(scheduled),
            plan=build_plan(rows, self.runner.block_size, self.share),
            installs=tuple(installs),
            block_tables={self.sequences[name].slot: tuple(self.sequences[name].blocks) for name in names},
        )
        logits = self.runner.forward(batch)
        for name in names:
            self.sequences[name].computed += lengths[name]
        return {
            (name, self.sequences[name].computed - 1): logits[row].clone() for row, name in enumerate(names)
        }

    def run_alone(self, name: str, chunk: int) -> dict[int, torch.Tensor]:
        """The whole sequence in chunks of this size, nothing else in the batch; logits by position."""
        found: dict[int, torch.Tensor] = {}
        item = self.sequences[name]
        while item.computed < len(item.ids):
            found |= {
                at: row
                for (_, at), row in self.step({name: min(chunk, len(item.ids) - item.computed)}).items()
            }
        return found

"""Compiles the CPU's kernels before the first start needs them: `python -m engine.runner.warm`, half a minute.

They are kept (`ops.compiled.cache`); a start that finds none compiles them itself. Once for weights in float32 and
once for bfloat16. Where numba is missing there is nothing to do.
"""

from __future__ import annotations

import sys

import msgspec
import numpy as np
import torch

from engine.models.config import parse_config
from engine.plan import Rows, build_plan
from engine.runner.batch import StepInputs

_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
_BLOCK = 16


class _Ones:
    """Weights that are all 1."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def get(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.ones(shape, dtype=self._dtype)


def compile_kernels() -> None:
    """A step of one row for each type of weights. Raises ImportError without numba."""
    from engine.models.compiled import CompiledDecoder
    from ops.compiled.decoder import Pool

    zero = torch.zeros(1, dtype=torch.int64)
    inputs = StepInputs(np.zeros(1, np.int64), zero, zero, zero + _BLOCK, None, (), frozenset())
    plan = build_plan([Rows(0, 1, [1])], _BLOCK, share=False)
    pool = Pool(np.zeros(2 * 2 * _BLOCK * _BLOCK, np.float32), 2 * _BLOCK, _BLOCK)
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        config = parse_config(msgspec.json.encode({**_CONFIG, "dtype": name}))
        decoder = CompiledDecoder(config, _Ones(dtype), _BLOCK, pool, 1, 2)
        decoder.compute(inputs, plan)
        decoder.assist(1)


if __name__ == "__main__":
    try:
        compile_kernels()
    except ImportError as error:
        print(f"kernels are not compiled: {error}", file=sys.stderr)

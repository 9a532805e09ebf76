"""The batch-invariant linear of `--deterministic` on a GPU: checks and one launch.

Shapes: M rows, N outputs, K inputs.
"""

from __future__ import annotations

import torch

from ops.kernels import matmul
from ops.kernels.configs import matmul_config

_INTERPRETER_PROGRAMS = 2


def linear(
    x_MK: torch.Tensor,
    weight_NK: torch.Tensor,
    bias_N: torch.Tensor | None = None,
    residual_MN: torch.Tensor | None = None,
) -> torch.Tensor:
    """x @ weight^T (+ bias) (+ residual), fp32 inside, rounded once to x's dtype.

    A row's bits depend on that row and the weights alone: not on M, not on the row's place.
    """
    rows, inputs = x_MK.shape
    outputs = weight_NK.shape[0]
    if weight_NK.shape[1] != inputs or weight_NK.dtype != x_MK.dtype:
        raise ValueError(f"weight: need {x_MK.dtype} [outputs, {inputs}], have {tuple(weight_NK.shape)}")
    if x_MK.stride(1) != 1 or weight_NK.stride(1) != 1:
        raise ValueError("x, weight: the inputs must be contiguous")
    if bias_N is not None and (bias_N.shape != (outputs,) or not bias_N.is_contiguous()):
        raise ValueError(f"bias: need contiguous [{outputs}]")
    if residual_MN is not None and (residual_MN.shape != (rows, outputs) or residual_MN.stride(1) != 1):
        raise ValueError(f"residual: need [{rows}, {outputs}], the outputs contiguous")
    out = x_MK.new_empty(rows, outputs)
    config = matmul_config(x_MK.dtype.itemsize, outputs, inputs)
    tiles = -(-rows // config.block_m) * -(-outputs // config.block_n)
    if tiles:
        matmul.linear[(min(tiles, _programs(x_MK.device)),)](
            x_MK,
            weight_NK,
            x_MK if bias_N is None else bias_N,
            x_MK if residual_MN is None else residual_MN,
            out,
            rows,
            outputs,
            inputs,
            x_MK.stride(0),
            weight_NK.stride(0),
            0 if residual_MN is None else residual_MN.stride(0),
            out.stride(0),
            BIAS=bias_N is not None,
            RESIDUAL=residual_MN is not None,
            EVEN_K=inputs % config.block_k == 0,
            BLOCK_M=config.block_m,
            BLOCK_N=config.block_n,
            BLOCK_K=config.block_k,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
    return out


def _programs(device: torch.device) -> int:
    if device.type == "cuda":
        return 2 * torch.cuda.get_device_properties(device).multi_processor_count
    return _INTERPRETER_PROGRAMS

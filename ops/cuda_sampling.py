"""Choosing tokens on a GPU: checks and launches; `ops.reference.sample` is the meaning.

A running sequence's parameters and history live in static device tables, by slot; a batch is a list of slots,
so nothing is copied per step but positions. Order of a step: `adjust_logits` (penalties, bitmask), `add_bias`
(bias and forbidden ids), then `sample` or, where every row is greedy, `argmax`.

Shapes: R rows, V vocabulary, S slots, W words of 32 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ops.kernels import logits, sampling
from ops.kernels.shapes import power_of_two

_ADJUST_BLOCK = 1024
_BIAS_BLOCK = 64
_ARGMAX_SPAN = 8192
_ARGMAX_BLOCK = 1024
_SAMPLE_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class SamplingTable:
    """Parameters by slot, on the device. inverse_temperature: fp32(1 / temperature), 0 for greedy rows.

    top_k int32 (0: all), top_p and min_p fp32, seeds int64.
    """

    inverse_temperature_S: torch.Tensor
    top_k_S: torch.Tensor
    top_p_S: torch.Tensor
    min_p_S: torch.Tensor
    seeds_S: torch.Tensor


@dataclass(frozen=True, slots=True)
class PenaltyTable:
    """Penalties (fp32) and history by slot. history: int32 [S, V], 2 x times generated + 1 if in the prompt."""

    history_SV: torch.Tensor
    repetition_S: torch.Tensor
    frequency_S: torch.Tensor
    presence_S: torch.Tensor


def adjust_logits(
    logits_RV: torch.Tensor,
    slots_R: torch.Tensor,
    penalties: PenaltyTable | None,
    bitmask_RW: torch.Tensor | None,
) -> None:
    """In place: repetition, frequency and presence penalties; then -inf for what the bitmask does not allow.

    bitmask: int32 [R, ceil(V / 32)], bit t % 32 of word t / 32 set: token t may be chosen.
    """
    rows, vocab = _logits(logits_RV, slots_R)
    if penalties is not None:
        history = penalties.history_SV
        if history.dtype != torch.int32 or history.shape[1] != vocab or history.stride(1) != 1:
            raise ValueError(f"history: need int32 [slots, {vocab}]")
    if bitmask_RW is not None and (
        bitmask_RW.dtype != torch.int32
        or bitmask_RW.shape != (rows, -(-vocab // 32))
        or bitmask_RW.stride(1) != 1
    ):
        raise ValueError(f"bitmask: need int32 [{rows}, {-(-vocab // 32)}]")
    if not rows or (penalties is None and bitmask_RW is None):
        return
    logits.adjust[(rows, -(-vocab // _ADJUST_BLOCK))](
        logits_RV,
        slots_R,
        slots_R if penalties is None else penalties.history_SV,
        logits_RV if penalties is None else penalties.repetition_S,
        logits_RV if penalties is None else penalties.frequency_S,
        logits_RV if penalties is None else penalties.presence_S,
        slots_R if bitmask_RW is None else bitmask_RW,
        logits_RV.stride(0),
        0 if penalties is None else penalties.history_SV.stride(0),
        0 if bitmask_RW is None else bitmask_RW.stride(0),
        vocab,
        PENALTIES=penalties is not None,
        MASK=bitmask_RW is not None,
        BLOCK=_ADJUST_BLOCK,
        num_warps=4,
        enable_fp_fusion=False,
    )


def add_bias(
    logits_RV: torch.Tensor, offsets: torch.Tensor, tokens: torch.Tensor, bias: torch.Tensor
) -> None:
    """In place: logits[r, tokens[i]] += bias[i] for i in offsets[r] .. offsets[r + 1]; -inf forbids a token.

    offsets, tokens: int32; bias: fp32. A row names a token once, and only tokens of the vocabulary.
    """
    rows = logits_RV.shape[0]
    if offsets.dtype != torch.int32 or tokens.dtype != torch.int32 or bias.dtype != torch.float32:
        raise ValueError("offsets, tokens, bias: need int32, int32 and fp32")
    if len(offsets) != rows + 1 or len(tokens) != len(bias):
        raise ValueError(f"offsets: need {rows + 1}; tokens and bias: need equal lengths")
    _logits(logits_RV, None)
    if rows and len(tokens):
        logits.add_bias[(rows,)](
            logits_RV, offsets, tokens, bias, logits_RV.stride(0), BLOCK=_BIAS_BLOCK, num_warps=2
        )


def argmax(logits_RV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens int64 [R], finite bool [R]): the likeliest of each row, the smallest id among equals.

    Any float dtype. finite false: the largest is not finite (NaN counts as largest), no token can be chosen.
    """
    rows, vocab = logits_RV.shape
    if logits_RV.stride(1) != 1:
        raise ValueError("logits: the vocabulary must be contiguous")
    parts = -(-vocab // _ARGMAX_SPAN)
    values = torch.empty(rows, parts, dtype=torch.float32, device=logits_RV.device)
    places = torch.empty(rows, parts, dtype=torch.int32, device=logits_RV.device)
    tokens = torch.empty(rows, dtype=torch.int64, device=logits_RV.device)
    finite = torch.empty(rows, dtype=torch.bool, device=logits_RV.device)
    if rows:
        logits.argmax_parts[(rows, parts)](
            logits_RV,
            values,
            places,
            logits_RV.stride(0),
            vocab,
            parts,
            SPAN=_ARGMAX_SPAN,
            BLOCK=_ARGMAX_BLOCK,
            num_warps=4,
        )
        logits.argmax_merge[(rows,)](
            values, places, tokens, finite, parts, BLOCK=power_of_two(parts), num_warps=1
        )
    return tokens, finite


def sample(
    logits_RV: torch.Tensor,
    slots_R: torch.Tensor,
    positions_R: torch.Tensor,
    table: SamplingTable,
    scratch_RV: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens int64 [R], chosen bool [R]): one token of each row's truncated distribution.

    A token is a function of (logits, parameters, seed, position): the same as `ops.sampling.draw` with
    `philox_uniforms`. chosen false: all logits of the row are -inf, or one is NaN or +inf. positions: int64.
    scratch: int32, as large as logits; what it holds does not matter.
    """
    rows, vocab = _logits(logits_RV, slots_R)
    wanted = (
        (table.inverse_temperature_S, torch.float32),
        (table.top_k_S, torch.int32),
        (table.top_p_S, torch.float32),
        (table.min_p_S, torch.float32),
        (table.seeds_S, torch.int64),
        (positions_R, torch.int64),
        (scratch_RV, torch.int32),
    )
    if any(tensor.dtype != dtype or tensor.stride(-1) != 1 for tensor, dtype in wanted):
        raise ValueError("table, positions, scratch: a dtype or a stride is wrong; see SamplingTable")
    if scratch_RV.shape[0] < rows or scratch_RV.shape[1] < vocab or len(positions_R) < rows:
        raise ValueError(f"positions, scratch: need {rows} rows, scratch {vocab} columns")
    tokens = torch.empty(rows, dtype=torch.int64, device=logits_RV.device)
    chosen = torch.empty(rows, dtype=torch.bool, device=logits_RV.device)
    if rows:
        sampling.sample_rows[(rows,)](
            logits_RV,
            slots_R,
            positions_R,
            *(tensor for tensor, _ in wanted[:5]),
            scratch_RV,
            tokens,
            chosen,
            logits_RV.stride(0),
            scratch_RV.stride(0),
            vocab,
            BLOCK=min(_SAMPLE_BLOCK, max(256, power_of_two(vocab) // 4)),
            num_warps=8,
        )
    return tokens, chosen


def _logits(logits_RV: torch.Tensor, slots_R: torch.Tensor | None) -> tuple[int, int]:
    rows, vocab = logits_RV.shape
    if logits_RV.dtype != torch.float32 or logits_RV.stride(1) != 1:
        raise ValueError("logits: need fp32 [rows, vocab], the vocabulary contiguous")
    if slots_R is not None and (len(slots_R) < rows or slots_R.is_floating_point()):
        raise ValueError(f"slots: need {rows} integers")
    return rows, vocab

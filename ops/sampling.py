"""Choosing tokens: the random numbers, and the rules for one row. `ops.reference.sample` is the meaning.

A token is a function of its row's logits, the request's parameters and Philox(seed, position): rows are
sampled one by one, so nothing of a batch can show through, and one row's failure is its own. One random
number a token, used by inverting the cumulative distribution in the order of ids: unlike Gumbel noise it
needs no number per vocabulary entry, and no order of the probabilities.

The CPU's rows are numpy: on this path an operation costs a third of torch's, and its sort and argmax use SIMD
(argmax of 16 x 4,096: 5 us against 58). `philox_uniforms` is torch in int64, the same on every device.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_MASK32 = 0xFFFFFFFF
_SCAN = 256  # vocabulary entries whose sum is taken at once before a token is searched among them


def philox_uniforms(seed: int, positions_N: torch.Tensor) -> torch.Tensor:
    """Uniform numbers in [0, 1) with 53 bits, fp64 [N]: Philox4x32-10 at (seed, position); int64 arithmetic.

    Source: Salmon et al., SC'11. Products of 32 bits by 32 do not fit int64's positive half; they wrap, and
    the logical shift masks the sign away, which is exact.
    """
    a, b = positions_N & _MASK32, (positions_N >> 32) & _MASK32
    c, d = torch.zeros_like(a), torch.zeros_like(a)
    k0, k1 = seed & _MASK32, (seed >> 32) & _MASK32
    for _ in range(10):
        product0, product1 = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (
            ((product1 >> 32) & _MASK32) ^ b ^ k0,
            product1 & _MASK32,
            ((product0 >> 32) & _MASK32) ^ d ^ k1,
            product0 & _MASK32,
        )
        k0, k1 = (k0 + 0x9E3779B9) & _MASK32, (k1 + 0xBB67AE85) & _MASK32
    return ((a >> 5).double() * 67108864.0 + (b >> 6).double()) / 9007199254740992.0


def greedy(logits_RV: Float32Array) -> npt.NDArray[np.int64]:
    """The likeliest token of every row, the smallest id among equals. A row with NaN gives a NaN's place."""
    likeliest: npt.NDArray[np.int64] = logits_RV.argmax(-1)
    return likeliest


def draw(
    logits_V: Float32Array, temperature: float, top_k: int, top_p: float, min_p: float, random: float
) -> int:
    """One token of softmax(logits / temperature), truncated as `ops.reference.sample` says.

    Raises ValueError when nothing may be chosen: all logits are -inf, or one is NaN or +inf.
    """
    top = logits_V.max()
    if not np.isfinite(top):
        raise ValueError("no token can be chosen: the logits are not finite")
    scaled = (logits_V - top) * np.float32(1.0 / temperature)
    threshold = _threshold(scaled, top_k, top_p, min_p)
    weights = np.exp(scaled)
    if threshold > -np.inf:
        weights[scaled < threshold] = 0.0
    return _invert(weights, random)


def log_softmax(logits_V: Float32Array) -> Float64Array:
    """Log-probabilities of the model's own distribution, fp64 [V]."""
    shifted = logits_V.astype(np.float64) - float(logits_V.max())
    result: Float64Array = shifted - np.log(np.exp(shifted).sum())
    return result


def _threshold(scaled_V: Float32Array, top_k: int, top_p: float, min_p: float) -> float:
    """The smallest scaled logit (the largest is 0) that survives truncation; -inf when all do."""
    threshold = -np.inf
    size = len(scaled_V)
    if 0 < top_k < size:
        threshold = float(np.partition(scaled_V, size - top_k)[size - top_k])
    if top_p < 1:
        threshold = max(threshold, _nucleus(scaled_V[scaled_V >= threshold], top_p))
    if min_p > 0:
        threshold = max(threshold, float(np.log(min_p)))
    return threshold


def _nucleus(candidates_N: Float32Array, top_p: float) -> float:
    """The scaled logit of the last token in the smallest set whose probability reaches top_p."""
    weights = np.exp(candidates_N).astype(np.float64)
    total = weights.sum()
    # Tokens below this cannot be in the set, since together they have less than 1 - top_p: fewer to sort.
    floor = (1.0 - top_p) * total / len(weights)
    ordered = np.sort(candidates_N[weights >= floor])[::-1]
    cumulative = np.cumsum(np.exp(ordered), dtype=np.float64)
    needed = int(np.searchsorted(cumulative, top_p * total))
    return float(ordered[min(needed, len(ordered) - 1)])


def _invert(weights_V: Float32Array, random: float) -> int:
    """The first id at which the cumulative weight exceeds random x the total, found by blocks, then inside
    one.
    """
    padding = -len(weights_V) % _SCAN
    blocks = np.pad(weights_V, (0, padding)).reshape(-1, _SCAN) if padding else weights_V.reshape(-1, _SCAN)
    cumulative = np.cumsum(blocks.sum(1), dtype=np.float64)
    target = random * cumulative[-1]
    block = min(int(np.searchsorted(cumulative, target, side="right")), len(cumulative) - 1)
    before = cumulative[block - 1] if block else 0.0
    inside = np.cumsum(blocks[block], dtype=np.float64) + before
    place = int(np.searchsorted(inside, target, side="right"))
    if place == _SCAN:  # rounding put the target past the block's own sum: its last token that may be chosen
        place = int(np.flatnonzero(blocks[block])[-1])
    return block * _SCAN + place

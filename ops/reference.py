"""The meaning of every op, in plain torch at fp64 (fp32 where an op is defined to round there).

The specification that the fast paths are tested against; never run in a server. Written for reading: loops
over rows, no batching, no layout tricks. Shapes as in the fast paths: R rows, G group, H kv_heads, D
head_dim, K = 2 x kv_heads (keys, then values), S slots, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

MASK32 = 0xFFFFFFFF


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, in fp64."""
    wide = x.double()
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.double()


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rms_norm(x + residual), x + residual), in fp64."""
    total = x.double() + residual.double()
    return rms_norm(total, weight, eps), total


def silu_and_mul(gate_up_R2F: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up_R2F.double().chunk(2, -1)
    return gate * torch.sigmoid(gate) * up


def gelu_tanh_and_mul(gate_up_R2F: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up_R2F.double().chunk(2, -1)
    return torch.nn.functional.gelu(gate, approximate="tanh") * up


def rope(x_RHD: torch.Tensor, cos_RD: torch.Tensor, sin_RD: torch.Tensor) -> torch.Tensor:
    """Rotate the pairs (i, i + D/2) of every head: x * cos + [-x2, x1] * sin. cos, sin repeat their first
    half.
    """
    first, second = x_RHD.double().chunk(2, -1)
    rotated = torch.cat((-second, first), -1)
    return x_RHD.double() * cos_RD.double().unsqueeze(1) + rotated * sin_RD.double().unsqueeze(1)


def write_kv(k_RHD: torch.Tensor, v_RHD: torch.Tensor, pool_KSD: torch.Tensor, slots_R: torch.Tensor) -> None:
    """Row r's key and value go to slot slots_R[r] of every head."""
    heads = k_RHD.shape[1]
    for row, slot in enumerate(slots_R.tolist()):
        pool_KSD[:heads, slot] = k_RHD[row].to(pool_KSD.dtype)
        pool_KSD[heads:, slot] = v_RHD[row].to(pool_KSD.dtype)


def partial_attention(
    q_GHD: torch.Tensor, k_HLD: torch.Tensor, v_HLD: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """One row's queries over some keys, all visible: (out [G, H, D], log-sum-exp [G, H])."""
    scores = torch.einsum("ghd,hld->ghl", q_GHD.double(), k_HLD.double()) * scale
    lse = torch.logsumexp(scores, -1)
    return torch.einsum("ghl,hld->ghd", torch.exp(scores - lse.unsqueeze(-1)), v_HLD.double()), lse


def merge_states(outs_P: list[torch.Tensor], lses_P: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Partial results over disjoint keys to the result over all of them, and its log-sum-exp."""
    lse = torch.logsumexp(torch.stack(lses_P), 0)
    return sum(
        (out * torch.exp(part - lse).unsqueeze(-1) for out, part in zip(outs_P, lses_P, strict=True)),
        torch.zeros_like(outs_P[0]),
    ), lse


def paged_attention(
    q_RGHD: torch.Tensor,
    pool_KSD: torch.Tensor,
    slots: list[list[int]],
    positions: list[int],
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """Causal attention of each row over its own sequence, cached prefix and new tokens alike, in fp64.

    slots[r]: the pool's slots of row r's sequence at positions 0, 1, ...; row r sees positions up to its own,
    and with a window only the last `window` of these. Sharing pages between rows changes nothing.
    """
    heads = pool_KSD.shape[0] // 2
    out = torch.empty(q_RGHD.shape, dtype=torch.float64)
    for row, position in enumerate(positions):
        first = 0 if window is None else max(0, position + 1 - window)
        seen = slots[row][first : position + 1]
        out[row], _ = partial_attention(q_RGHD[row], pool_KSD[:heads, seen], pool_KSD[heads:, seen], scale)
    return out


def philox_4x32_10(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11), on Python ints."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (
            (product1 >> 32) ^ b ^ k0,
            product1 & MASK32,
            (product0 >> 32) ^ d ^ k1,
            product0 & MASK32,
        )
        k0, k1 = (k0 + 0x9E3779B9) & MASK32, (k1 + 0xBB67AE85) & MASK32
    return a, b, c, d


def uniform(seed: int, position: int) -> float:
    """The one random number of a token: in [0, 1), 53 bits, a function of the request's seed and its
    position.
    """
    key = (seed & MASK32, (seed >> 32) & MASK32)
    high, low, _, _ = philox_4x32_10((position & MASK32, position >> 32, 0, 0), key)
    return ((high >> 5) * 67108864.0 + (low >> 6)) / 9007199254740992.0


@dataclass(frozen=True, slots=True)
class Sampling:
    """One row's sampling. bias: added to logits; forbidden: ids that may not be chosen."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    bias: tuple[tuple[int, float], ...] = ()
    forbidden: tuple[int, ...] = ()


def sample(
    logits_V: torch.Tensor, how: Sampling, prompt_ids: list[int], output_ids: list[int], random: float
) -> int:
    """One row's token.

    In this order: repetition penalty (prompt and output), frequency and presence penalties (output), bias,
    forbidden ids; temperature 0 then takes the largest (the smallest id among equals). Else softmax(logits /
    T), cut to top_k, renormalised, cut to top_p, cut to min_p x the largest; ties at a cut stay. The token is
    the first, in the order of ids, at which the cumulative probability exceeds `random`.
    """
    logits = logits_V.double().clone()
    for token in set(prompt_ids) | set(output_ids):
        value = logits[token]
        logits[token] = value / how.repetition_penalty if value > 0 else value * how.repetition_penalty
    for token in set(output_ids):
        logits[token] -= how.frequency_penalty * output_ids.count(token) + how.presence_penalty
    for token, bias in how.bias:
        logits[token] += bias
    logits[list(how.forbidden)] = float("-inf")
    if how.temperature == 0:
        return int(torch.nonzero(logits == logits.max())[0])
    probabilities = _truncate(torch.softmax(logits / how.temperature, 0), how)
    cumulative = torch.cumsum(probabilities, 0)
    return int(torch.nonzero(cumulative > random * cumulative[-1])[0])


def _truncate(probabilities: torch.Tensor, how: Sampling) -> torch.Tensor:
    if how.top_k:
        kth = torch.sort(probabilities, descending=True).values[min(how.top_k, len(probabilities)) - 1]
        probabilities = torch.where(probabilities >= kth, probabilities, 0.0)
        probabilities = probabilities / probabilities.sum()
    if how.top_p < 1:
        ordered = torch.sort(probabilities, descending=True).values
        needed = int((torch.cumsum(ordered, 0) < how.top_p).sum())
        probabilities = torch.where(
            probabilities >= ordered[min(needed, len(ordered) - 1)], probabilities, 0.0
        )
    return torch.where(probabilities >= how.min_p * probabilities.max(), probabilities, 0.0)


def log_probabilities(logits_V: torch.Tensor) -> torch.Tensor:
    """Of the model's own distribution: before penalties, bias, temperature and truncation."""
    return torch.log_softmax(logits_V.double(), -1)

"""Log-probabilities on a GPU, in torch calls: of the tokens that were chosen, and of the likeliest.

Invariant: a row's numbers are a function of that row; among equal logits the smaller id comes first. Nothing here
waits for the device.
"""

from __future__ import annotations

import torch

ROWS_AT_ONCE = 32
"""Bounds the memory: a row takes 8 bytes per vocabulary entry several times over."""


def logprobs(
    logits_RV: torch.Tensor, tokens_R: torch.Tensor, number: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(of each token fp64 [R], ids of the likeliest int64 [R, number], theirs fp64 [R, number], falling).

    logits: any float dtype, at least a row. fp64 inside, as the CPU's `ops.sampling.log_softmax`.
    """
    pieces = zip(torch.split(logits_RV, ROWS_AT_ONCE), torch.split(tokens_R, ROWS_AT_ONCE), strict=True)
    chosen, ids, values = zip(*[_logprobs(*piece, number) for piece in pieces], strict=True)
    return torch.cat(chosen), torch.cat(ids), torch.cat(values)


def _logprobs(
    logits_RV: torch.Tensor, tokens_R: torch.Tensor, number: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    values_RV = torch.log_softmax(logits_RV.double(), -1)
    ids_RN = likeliest(logits_RV, number)
    return values_RV.gather(1, tokens_R[:, None]).squeeze(1), ids_RN, values_RV.gather(1, ids_RN)


def likeliest(logits_RV: torch.Tensor, number: int) -> torch.Tensor:
    """int64 [R, number]: `torch.topk` does not say which of equal values it takes, so they are counted off."""
    rows, vocab = logits_RV.shape
    if not number:
        return torch.empty(rows, 0, dtype=torch.int64, device=logits_RV.device)
    values_RN = logits_RV.topk(number, -1).values
    last_R1 = values_RN[:, -1:]
    equal_RV = logits_RV == last_R1
    room_R1 = (values_RN == last_R1).sum(-1, keepdim=True)
    taken_RV = (logits_RV > last_R1) | (equal_RV & (equal_RV.cumsum(-1) <= room_R1))
    rank_RV = torch.where(taken_RV, torch.arange(vocab, 0, -1, device=logits_RV.device), 0)
    ids_RN = vocab - rank_RV.topk(number, -1).values  # ascending
    order_RN = logits_RV.gather(1, ids_RN).sort(dim=-1, descending=True, stable=True).indices
    return ids_RN.gather(1, order_RN)

"""What a machine's own constants allow: the ratio that each workload could reach at best.

Pure. Times are milliseconds. Source of the forms: OSDI'24 "Parrot" with the closed forms that its experiments
follow; the constants are those that B0 fits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Constants:
    """t_step = a + b * sequences + c * kv_tokens; a prefilled token takes p. `kv_bytes` of one token."""

    a: float
    b: float
    c: float
    p: float
    kv_bytes: int = 0

    def step_ms(self, sequences: float, kv_tokens: float) -> float:
        return self.a + self.b * sequences + self.c * kv_tokens

    def call_ms(self, prompt: float, output: int, *, beside: float = 1.0, cached: float = 0.0) -> float:
        """One of `beside` equal calls that run together: each prefills, and all share their steps."""
        step = self.step_ms(beside, beside * (prompt + output / 2))
        return self.p * (prompt - cached) * beside + output * step

    def __str__(self) -> str:
        return f"a={self.a:.2f} b={self.b:.3f} c={self.c:.5f} p={self.p:.4f} ms"


def chain(ratio: float, steps: int) -> float:
    """One exchange in place of `steps`; `ratio`: network over step time."""
    return (1 + ratio) / (1 + ratio / steps)


def order(apps: int, slots: int) -> float:
    """Mean completion of identical chains, one after another in place of all at once; R = apps over slots."""
    waves = apps / slots
    return max(1.0, 2 * waves / (waves + 1))


def duplicates(share: float) -> float:
    return 1 / (1 - share)


def map_reduce(constants: Constants, maps: int, chunk: int, output: int, cap: int) -> float:
    """Maps in waves of `cap` and then the reduce, over all maps at once."""

    def total(width: int) -> float:
        full, rest = divmod(maps, width)
        waves = full * constants.call_ms(chunk, output, beside=width)
        if rest:
            waves += constants.call_ms(chunk, output, beside=rest)
        return waves + constants.call_ms(maps * output, output)

    return total(cap) / total(maps)


@dataclass(frozen=True, slots=True)
class Stage:
    """`width` equal calls at once, whose first `shared` prompt tokens are the same."""

    width: int
    shared: int
    own: int
    output: int


def staged_ms(constants: Constants, stages: list[Stage], *, sharing: bool, batch: int) -> float:
    """Stages after one another, at most `batch` sequences at a time. Sharing computes, and holds, a prefix once."""
    total = 0.0
    for stage in stages:
        waves, rest = divmod(stage.width, batch)
        for width in [batch] * waves + ([rest] if rest else []):
            tokens = stage.shared * (1 if sharing else width) + width * stage.own
            kept = tokens + width * stage.output / 2
            total += constants.p * tokens + stage.output * constants.step_ms(width, kept)
    return total


def cyclic_hits(agents: int, held: int) -> tuple[float, float]:
    """Hit rates of (least recently used, farthest next use) when `agents` equal contexts come in turn and `held`
    of them fit."""
    if held >= agents:
        return 1.0, 1.0
    return 0.0, max(0.0, (held - 1) / (agents - 1))


def eager_beside(constants: Constants, context: int, said: int, answer: int, budget: int = 512) -> float:
    """Prefill of a context while another sequence of the same engine decodes `said` tokens, over prefill after it.

    By B0's model of a step the device has no idle time there: only the fixed part of prefill's own steps is saved.
    """
    first = said * constants.step_ms(1, said)
    rest = answer * constants.step_ms(1, context)
    prefill = constants.p * context
    saved = min(said, -(-context // budget)) * constants.a
    return (first + prefill + rest) / (first + prefill + rest - saved)


def eager_idle(constants: Constants, context: int, late_ms: float, answer: int) -> float:
    """Prefill of a context while the engine waits `late_ms` for its input, over prefill after that."""
    prefill, rest = constants.p * context, answer * constants.step_ms(1, context)
    return (late_ms + prefill + rest) / (max(late_ms, prefill) + rest)


@dataclass(frozen=True, slots=True)
class Load:
    """`count` requests of so many tokens."""

    count: int
    prompt: int
    output: int


def paced(constants: Constants, limit_ms: float, chats: Load, work: Load) -> float:
    """Batch work beside chats whose time per token is kept at a limit, over both together without one.

    One device computes both: in a step, batch work has what chats leave of the limit. Infinite: they leave nothing.
    """
    prefill = constants.p - constants.a / 512  # measured in steps of 512 tokens, of which each has an `a`
    chat_ms = constants.step_ms(chats.count, chats.count * (chats.prompt + chats.output / 2))
    chat_ms += prefill * chats.count * chats.prompt / chats.output
    token_ms = constants.b + constants.c * (work.prompt + work.output / 2)
    work_ms = work.count * (work.prompt * prefill + work.output * token_ms)
    if limit_ms <= chat_ms:
        return math.inf
    return work_ms * limit_ms / (limit_ms - chat_ms) / (work_ms + work.output * chat_ms)

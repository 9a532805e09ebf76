"""What an engine has room for, and which requests therefore can never run.

Responsible for: the sizes a scheduler works with, and the error of a request that exceeds them: it names the
number and the flag. Leaves to others: what fits right now (BatchScheduler).
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.types import Generate, Warm


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes are in tokens unless a name says otherwise. `num_blocks` includes scratch block 0. extent: so many
    blocks are read in place where they are consecutive and aligned; None: to attention all places are alike."""

    num_blocks: int
    block_size: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    vocab_size: int
    disabled: frozenset[str] = frozenset()
    extent: int | None = None

    @property
    def capacity(self) -> int:
        """Tokens of the longest sequence: what the model knows and the cache holds."""
        return min(self.max_model_len, (self.num_blocks - 1) * self.block_size)

    def problem(self, request: Generate | Warm) -> str | None:
        """Why a request can never run; None: it can."""
        length = len(request.token_ids)
        if not length:
            return "the prompt is empty"
        if isinstance(request, Generate) and not 0 <= request.num_generated < length:
            return f"num_generated is {request.num_generated} of {length} tokens"
        needed = length if isinstance(request, Warm) else length + 1
        if needed > self.max_model_len:
            return (
                f"a prompt of {length} tokens leaves no room to generate: the model's context is "
                f"{self.max_model_len} tokens (--max-model-len)"
            )
        if needed > self.capacity:
            return (
                f"a prompt of {length} tokens does not fit in the KV cache of {self.capacity} tokens "
                "(--kv-cache-memory)"
            )
        if min(request.token_ids) < 0 or max(request.token_ids) >= self.vocab_size:
            return f"a token id is not in 0..{self.vocab_size - 1}"
        return None

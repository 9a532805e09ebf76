"""One request inside an engine: its ids, its blocks, and how far it has come.

Responsible for: the state of a sequence and the few facts that follow from it. Who may change it:
BatchScheduler, and for `blocks`, `node`, `num_published` BlockTables. Leaves decisions to both.

    tokens      prompt ............................ | generated .........
    KV          committed ......... | scheduled ... |
                0                num_committed   num_scheduled

`num_scheduled` advances when a step is scheduled, `num_committed` when its result is in, so that a step may
be scheduled before the one before it has ended. A sequence prefills up to `prefill_end` (all ids known when
it was admitted) and decodes from there on: one token a step, whose id is the slot's last sample.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Literal

from engine.cache.radix_tree import Node
from engine.types import Generate, Key, Objective, Salt, SamplingParams, TokenLogprobs, Urgency, Warm

Order = tuple[int, Key, int]
"""(urgency, key, arrival): the smallest goes first; unique."""


class Status(Enum):
    WAITING = auto()
    PARKED = auto()  # waits until another sequence has computed what both need
    RUNNING = auto()  # owns a slot
    FINISHED = auto()


@dataclass(slots=True, eq=False)
class Sequence:
    """`tokens` are prompt and outputs; `max_tokens_total` bounds their number. Sizes are in tokens."""

    id: int
    tokens: list[int]
    prompt_ids: tuple[int, ...]
    salts: tuple[Salt, ...]
    order: Order  # its own, or stricter while others wait for it
    own_order: Order
    max_tokens_total: int
    step_limit_ms: float | None = None
    sampling: SamplingParams | None = None  # None: Warm, prefill only
    stop_ids: frozenset[int] = frozenset()
    expires_at: float | None = None
    arrived_at: float = 0.0
    queue_ms: float | None = None  # until its first step
    application: int = 0
    followed: bool = False

    status: Status = Status.WAITING
    ticket: int = 0  # of its entry in the waiting queue
    life: int = 0  # counts admissions: results of an earlier life are dropped
    slot: int | None = None
    installed: bool = False
    prefill_end: int = 0
    num_scheduled: int = 0
    num_committed: int = 0
    cached_tokens: int | None = None  # of its first life
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)  # until they are reported
    suspect: bool = False  # was in a batch that failed: runs alone until it is known to be good

    blocks: list[int] = field(default_factory=list)
    blocks_changed: bool = False  # since the runner last heard of them
    node: Node | None = None  # the tree's node of its last published full block
    num_published: int = 0  # full blocks
    copy: tuple[int, int, int] | None = None  # (source block, target block, tokens), before its first step

    pending: tuple[Node, tuple[bytes | int, ...]] | None = None  # where InFlight has it registered
    followers: list[tuple[int, int, Sequence]] = field(
        default_factory=list
    )  # heap of (tokens wanted, arrival, who)
    leader: Sequence | None = None

    @property
    def num_prompt(self) -> int:
        return len(self.prompt_ids)

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - len(self.prompt_ids)

    @property
    def tenant(self) -> bytes:
        """What its own part of the tree is salted with."""
        return self.salts[-1].value if self.salts else b""

    @property
    def arrival(self) -> int:
        return self.own_order[2]

    @property
    def speculative(self) -> bool:
        return self.order[0] == Urgency.SPECULATIVE

    @property
    def prefilling(self) -> bool:
        return self.num_scheduled < self.prefill_end

    @property
    def may_decode(self) -> bool:
        """Its next decode token has a place: position num_scheduled yields the token after it."""
        return self.prefill_end <= self.num_scheduled < self.max_tokens_total - 1

    @property
    def scores_prompt(self) -> bool:
        """Log-probabilities of its prompt are asked for, and not reported yet."""
        return (
            self.sampling is not None
            and self.sampling.prompt_logprobs is not None
            and len(self.tokens) == len(self.prompt_ids)
        )

    @property
    def reusable(self) -> int:
        """How many of its tokens need not be computed if they are cached: the last one's logits are
        wanted, or all."""
        if self.scores_prompt:
            return 0
        return len(self.tokens) if self.sampling is None else len(self.tokens) - 1

    def append(self, token_id: int) -> Literal["stop", "length"] | None:
        """Take a sampled token; whether that ends the sequence. One that stops it is not among its tokens."""
        sampling = self.sampling
        assert sampling is not None
        if token_id in self.stop_ids and self.num_generated >= sampling.min_tokens:
            return "stop"
        self.tokens.append(token_id)
        return "length" if len(self.tokens) >= self.max_tokens_total else None

    def output_ids(self) -> tuple[int, ...]:
        return tuple(self.tokens[len(self.prompt_ids) :])


def from_generate(request: Generate, arrival: int, max_model_len: int) -> Sequence:
    num_prompt = len(request.token_ids) - request.num_generated
    sampling = request.sampling
    eos = () if sampling.ignore_eos else sampling.eos_token_ids
    order = (int(request.objective.urgency), request.key, arrival)
    return Sequence(
        id=request.id,
        tokens=list(request.token_ids),
        prompt_ids=request.token_ids[:num_prompt],
        salts=ascending(request.salts),
        order=order,
        own_order=order,
        max_tokens_total=min(num_prompt + sampling.max_tokens, max_model_len),
        step_limit_ms=request.objective.step_limit_ms,
        sampling=sampling,
        stop_ids=frozenset((*sampling.stop_token_ids, *eos)),
        application=request.application,
        followed=request.followed,
    )


def from_warm(request: Warm, arrival: int, now: float) -> Sequence:
    order = (int(Urgency.SPECULATIVE), request.key, arrival)
    return Sequence(
        id=request.id,
        tokens=list(request.token_ids),
        prompt_ids=request.token_ids,
        salts=ascending(request.salts),
        order=order,
        own_order=order,
        max_tokens_total=len(request.token_ids),
        expires_at=now + request.ttl_s,
    )


def new_order(sequence: Sequence, objective: Objective, key: Key) -> Order:
    return (int(objective.urgency), key, sequence.arrival)


def ascending(salts: Items[Salt]) -> tuple[Salt, ...]:
    return tuple(sorted(salts, key=lambda salt: salt.start))

"""What crosses the socket between the server and an engine process.

Responsible for: the shapes of both directions, and nothing else. An engine knows token ids only: text, chat
templates and stop strings stay in the server. Every message is a frozen, tagged msgspec Struct, carried as
msgpack in a length-prefixed frame (`engine.ipc`); a message that does not decode is a bug, never input.

Ids are integers chosen by the server and unique among the live requests of one engine.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

import msgspec

FinishReason = Literal["stop", "length", "abort", "error"]


class Urgency(IntEnum):
    """What a request is urgent for; smaller goes first."""

    LATENCY = 0
    THROUGHPUT = 1
    SPECULATIVE = 2


class Objective(msgspec.Struct, frozen=True, array_like=True):
    """Why a request matters. `step_limit_ms` (a time per token) caps the batch it runs in; None: no cap.

    `within_ms`: how soon something of it is wanted, an earlier place among the equally urgent; None: no matter.
    """

    urgency: Urgency = Urgency.LATENCY
    step_limit_ms: float | None = None
    within_ms: float | None = None


Key = tuple[int, ...]
"""Order in an engine's waiting queue, compared lexicographically; the smallest goes first."""


class SamplingParams(msgspec.Struct, frozen=True, omit_defaults=True):
    """How tokens are chosen. Complete: every default has been filled in by the server.

    `seed` is always set; a token is a function of (logits, seed, position), so that a request which is
    preempted, moved or re-queued continues as if it had never stopped.
    """

    max_tokens: int
    seed: int
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    logprobs: int | None = None  # None: off; k: the chosen token's and the k most likely ones'
    stop_token_ids: tuple[int, ...] = ()  # ends with finish_reason "stop"; the model's EOS ids are added here
    ignore_eos: bool = False  # the engine then ignores `eos_token_ids`, not `stop_token_ids`
    eos_token_ids: tuple[int, ...] = ()
    grammar: str | None = (
        None  # what the output must match, in llguidance's form; it ends with one of the EOS ids
    )
    allowed_token_ids: tuple[int, ...] | None = None  # only these may be chosen
    bad_words: tuple[tuple[int, ...], ...] = ()  # sequences of ids that an output never has
    prompt_logprobs: int | None = None  # as logprobs, of the prompt: what is cached of it is computed again


class Salt(msgspec.Struct, frozen=True, array_like=True):
    """From position `start` on (to the next Salt), blocks are shared only among requests of the same `value`."""

    start: int
    value: bytes


# -- to the engine ---------------------------------------------------------------------------------------------


class Generate(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Generate from `token_ids`.

    The last `num_generated` of `token_ids` are outputs of this very request from an earlier life (an engine
    that died): they count towards max_tokens, min_tokens and penalties, and are not reported again.
    `boundaries` are the positions at which a semantic variable ends, for hints and statistics. `application`:
    the place of its application in the order in which they began; within a class a slot is given up to an earlier
    one only. `followed`: when it has ended, a request that has waited for nothing else comes at once.
    """

    id: int
    token_ids: tuple[int, ...]
    sampling: SamplingParams
    objective: Objective = Objective()
    key: Key = ()
    salts: tuple[Salt, ...] = ()
    boundaries: tuple[int, ...] = ()
    num_generated: int = 0
    application: int = 0
    followed: bool = False


class Warm(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Prefill `token_ids` into the cache and report `Finished` with no tokens. Never delays other work."""

    id: int
    token_ids: tuple[int, ...]
    key: Key = ()
    salts: tuple[Salt, ...] = ()
    ttl_s: float = 60.0


class Reprioritise(msgspec.Struct, frozen=True, tag=True):
    """A later, stricter `get`: change the objective and the place in the queue. Unknown ids are ignored."""

    id: int
    objective: Objective
    key: Key


class Hint(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """When some KV is wanted next: steps from now, or None for never (evict it first).

    Of `token_ids`, or where `id` is given of what that request had when it ended, its output included; only the
    last few hundred that ended are remembered. It concerns the positions from `begin` up to `end` (None: all).
    """

    token_ids: tuple[int, ...] = ()
    salts: tuple[Salt, ...] = ()
    next_use: int | None = None
    id: int | None = None
    begin: int = 0
    end: int | None = None


class Abort(msgspec.Struct, frozen=True, tag=True):
    """Drop a request at the next step boundary. Nothing is reported for it afterwards; of a Warm, its end is."""

    id: int


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """End the process after the current step."""


ToEngine = Generate | Warm | Reprioritise | Hint | Abort | Shutdown


# -- from the engine -------------------------------------------------------------------------------------------


class Loading(msgspec.Struct, frozen=True, tag=True):
    """Progress of start-up, for `/health/ready` and the log. `fraction` is in 0..1."""

    stage: str
    fraction: float


class Ready(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """The engine takes requests. Sizes are in tokens unless a name says otherwise.

    `tokenizer` is None when the model folder has a `tokenizer.json` that the server loads itself; else the
    JSON of a tokenizer converted in the engine process.
    """

    block_size: int
    num_blocks: int  # usable ones: without the scratch block 0
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int  # of a step
    vocab_size: int
    device: str
    dtype: str
    kv_cache_bytes: int
    num_threads: int = 1
    tokenizer: bytes | None = None


class TopLogprob(msgspec.Struct, frozen=True, array_like=True):
    token_id: int
    logprob: float


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log-probabilities at one position, of the distribution before temperature and truncation."""

    logprob: float
    top: tuple[TopLogprob, ...] = ()
    rank: int | None = None  # 1: the likeliest; only of a prompt's tokens


class TokenDelta(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What one step produced for one request.

    `finish_reason` set: this is the request's last delta. A token that ended it (EOS, stop id) is in
    `stop_token_id` and not in `token_ids`. `cached_tokens` is how many prompt tokens were not computed,
    and is right from the first delta on. `error` is set with finish_reason "error". `queue_ms` comes with the first
    token: how long the request waited in this engine until its first step; so does `prompt_logprobs`, where they
    were asked for: of all tokens of the prompt but the first, which follows nothing.
    """

    id: int
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    cached_tokens: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()
    error: str | None = None
    queue_ms: float | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    computed_tokens: int = 0  # of a Warm that ends: so many of its tokens are in the cache


class StepReport(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """One per step, and the only thing a running engine sends: the deltas of all sequences, and its load."""

    step_id: int
    step_ms: float
    deltas: tuple[TokenDelta, ...] = ()
    num_running: int = 0
    num_waiting: int = 0
    free_blocks: int = 0  # including cached blocks that may be evicted
    num_tokens: int = 0  # computed in this step, prefill and decode
    num_preemptions: int = 0  # in this step
    num_evictions: int = 0  # blocks in this step
    prefix_queries: int = 0  # prompt tokens of the sequences first scheduled in this step
    prefix_hits: int = 0  # how many of them were not computed
    shared_kv_bytes: int = 0  # KV bytes that grouped prefix attention did not read
    step_times: tuple[float, float, float] | None = (
        None  # ms: a step, a sequence in it, a KV token; when news
    )


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The engine cannot go on (it could not load or allocate). It exits after this."""

    message: str


FromEngine = Loading | Ready | StepReport | Failed

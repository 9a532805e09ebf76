"""A decoder whose step is one compiled call (`ops.compiled`): the model of `engine.models.decoder`, in float32.

Responsible for packing a checkpoint's weights into what the kernels read, and for the memory that a step needs.
Weights keep bfloat16 where the checkpoint has it: they are widened as they are read, which is exact and halves what
a decode step reads. Left to others: which rows there are, KV memory, sampling.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from engine.batch import AttentionPlan
from engine.models.config import ModelConfig
from engine.models.layers import Weights, rope_table
from engine.runner.batch import LEFT_OUT, StepInputs
from ops.attention import Plan, plan_of_rows
from ops.compiled.attention import QUERIES, SCRATCH
from ops.compiled.crew import BOARD
from ops.compiled.decoder import (
    LAYER_FIELDS,
    PARTS,
    Floats,
    Ints,
    Model,
    Pool,
    Scratch,
    Step,
    work,
)
from ops.compiled.helpers import Helpers
from ops.compiled.llvm import LANES
from ops.compiled.products import PANEL, ROW_BLOCK, to_panels

_NONE = -1

_NO_STEP = Step(*[0] * len(Step._fields))
_NO_ROWS = np.zeros(0, np.int64)


def can_compile(config: ModelConfig, dtype: torch.dtype, block_size: int) -> bool:
    """Whether the kernels take this model: float32, and sizes of whole panels and vectors."""
    return dtype == torch.float32 and config.hidden_size % PANEL == 0 and block_size % LANES == 0


class CompiledDecoder:
    """Weights and forward pass. One step at a time: the scratch memory is the decoder's own.

    pool: the KV memory that steps read and write. threads: the most that a step may have.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        max_positions: int,
        pool: Pool,
        max_rows: int,
        threads: int,
    ) -> None:
        self.config = config
        self._model = _pack(config, weights, max_positions)
        self._pool = pool
        self._most_threads = self._threads = threads
        self._scratch = self._make_scratch(max_rows)
        me = weakref.ref(self)
        helpers = Helpers(threads - 1, lambda number: _assist(me, number))
        weakref.finalize(self, helpers.close)
        self._wake = helpers.wake

    @property
    def weight_bytes(self) -> int:
        """Of an element: 2 where they are bfloat16."""
        return self._model.weights.itemsize

    @property
    def clock(self) -> dict[str, int]:
        """CPU cycles of each part of a step since the start."""
        return dict(zip(PARTS, self._scratch.clock.tolist(), strict=True))

    def use_threads(self, threads: int) -> None:
        """Compute with so many from now on, at most those that there are. Results are the same."""
        self._threads = min(threads, self._most_threads)

    def compute(self, inputs: StepInputs, plan: AttentionPlan) -> torch.Tensor:
        """Logits [len(logit_rows), vocab], of all rows where that is None. The next step overwrites them."""
        rows = len(inputs.positions)
        wanted = np.arange(rows) if inputs.logit_rows is None else inputs.logit_rows.numpy()
        leaves_out = bool(inputs.sampled) and not inputs.scored and len(wanted) <= rows - LEFT_OUT
        whole = Plan(plan.tiles, plan.pages, plan.merge_offsets, plan.merge_parts, inputs.positions)
        plans = [whole, plan_of_rows(whole, wanted)] if leaves_out else [whole]
        arrays = [_arrays(inputs, each) for each in plans]
        width = _panels(self.config.vocab_size)
        self._make_room(arrays, max(rows, len(wanted)), len(wanted) * width)
        steps = self._lay_out(arrays)
        self._wake(self._threads - 1)
        work(0, self._model, steps[0], steps[-1], leaves_out, rows, wanted, self._pool, self._scratch)
        logits = torch.from_numpy(self._scratch.logits[: len(wanted) * width]).view(len(wanted), width)
        return logits[:, : self.config.vocab_size]

    def assist(self, number: int) -> None:
        """Help with the step that is computed now, if one is."""
        work(number, self._model, _NO_STEP, _NO_STEP, False, 0, _NO_ROWS, self._pool, self._scratch)

    def _lay_out(self, plans: list[list[Ints]]) -> list[Step]:
        """Copy the arrays into the table, one after the other."""
        steps, end, table = [], 0, self._scratch.table
        for arrays in plans:
            begins = []
            for array in arrays:
                begins.append(end)
                table[end : end + array.size] = array.reshape(-1)
                end += array.size
            ids, positions, slots, tiles, pages, offsets, parts = begins
            num_tiles, num_parts = len(arrays[3]), len(arrays[6])  # each partial result is read by one row
            steps.append(Step(ids, positions, slots, tiles, num_tiles, pages, offsets, parts, num_parts))
        return steps

    def _make_room(self, plans: list[list[Ints]], rows: int, logits: int) -> None:
        """What is too small is made anew, and the board with it: helpers of an earlier step have the old ones."""
        scratch, (heads, _, _, dim) = self._scratch, self._model.heads
        if rows * self._model.hidden > scratch.x.size:
            scratch = self._make_scratch(rows)
        table, parts = sum(array.size for arrays in plans for array in arrays), len(plans[0][6])
        if table > scratch.table.size:
            scratch = scratch._replace(table=np.zeros(2 * table, np.int64))
        if parts * heads * 2 > scratch.stats.size:
            scratch = scratch._replace(partial=_zeros(parts * heads * dim), stats=_zeros(parts * heads * 2))
        if logits > scratch.logits.size:
            scratch = scratch._replace(logits=_zeros(logits))
        if scratch is not self._scratch:
            self._scratch = scratch._replace(board=_board(), clock=self._scratch.clock)

    def _make_scratch(self, rows: int) -> Scratch:
        model = self._model
        heads, kv_heads, _, dim = model.heads
        widest = max(_panels((heads + 2 * kv_heads) * dim), model.ffn, model.hidden)
        depth = max(model.hidden, model.ffn, heads * dim)
        own = max(depth * PANEL + 2 * ROW_BLOCK * PANEL, SCRATCH * max(1, heads // kv_heads // QUERIES + 1))
        return Scratch(
            x=_zeros(rows * model.hidden),
            h=_zeros(rows * max(model.hidden, heads * dim)),
            wide=_zeros(rows * widest),
            q=_zeros(rows * heads * dim),
            partial=_zeros(rows * heads * dim),
            stats=_zeros(rows * heads * 2),
            logits=_zeros(_panels(model.vocab)),
            own=torch.zeros(self._most_threads, own).numpy(),
            table=np.zeros(8 * rows, np.int64),
            board=_board(),
            clock=np.zeros(len(PARTS), np.int64),
        )


def _assist(decoder: weakref.ref[CompiledDecoder], number: int) -> None:
    alive = decoder()
    if alive is not None:
        alive.assist(number)


def _arrays(inputs: StepInputs, plan: Plan) -> list[Ints]:
    """In the order of `Step`'s fields."""
    ids, slots = inputs.ids.numpy(), inputs.kv_slots.numpy()
    return [
        ids, plan.positions, slots, plan.tiles, plan.pages, plan.merge_offsets, plan.merge_parts,
    ]  # fmt: skip


def _board() -> Ints:
    board: Ints = torch.zeros(BOARD, dtype=torch.int64).numpy()
    return board


def _zeros(count: int) -> Floats:
    """Aligned to a cache line, which vectors like."""
    array: Floats = torch.zeros(count).numpy()
    return array


def _panels(width: int) -> int:
    """Rounded up to whole panels."""
    return -(-width // PANEL) * PANEL


class _Arena:
    """Panels and vectors one after the other; what is appended gets its offset."""

    def __init__(self, sixteen: bool) -> None:
        self.sixteen = sixteen
        self._parts: list[npt.NDArray[np.generic]] = []
        self._size = 0

    def add(self, tensor: torch.Tensor) -> int:
        """[out, in]: as panels; [n]: as it is, in float32."""
        array = to_panels(as_stored(tensor, self.sixteen)) if tensor.dim() == 2 else tensor.float().numpy()
        begin = self._size
        padding = -array.size % PANEL
        self._parts.append(np.concatenate((array.reshape(-1), np.zeros(padding, array.dtype))))
        self._size += array.size + padding
        return begin

    def joined(self) -> npt.NDArray[np.generic]:
        """All of it in one array, aligned to a cache line. The parts are let go of as they are copied."""
        dtype = self._parts[0].dtype
        out = torch.empty(self._size * dtype.itemsize, dtype=torch.uint8).numpy().view(dtype)
        begin = 0
        self._parts.reverse()
        while self._parts:
            part = self._parts.pop()
            out[begin : begin + part.size] = part
            begin += part.size
        return out


class NotSixteen(ValueError):
    """A tensor of a checkpoint that says bfloat16 holds something else."""


def as_stored(tensor: torch.Tensor, sixteen: bool) -> npt.NDArray[np.generic]:
    """float32, or bfloat16 as uint16. Raises NotSixteen where that would round."""
    if not sixteen:
        return tensor.float().contiguous().numpy()
    stored = tensor.to(torch.bfloat16)
    if stored.dtype != tensor.dtype and not torch.equal(stored.to(tensor.dtype), tensor):
        raise NotSixteen(f"{tensor.dtype} that is not bfloat16")
    return stored.contiguous().view(torch.int16).numpy().view(np.uint16)


def _pack(config: ModelConfig, weights: Weights, max_positions: int) -> Model:
    if config.dtype == "bfloat16":
        with suppress(NotSixteen):
            return _packed(config, weights, max_positions, sixteen=True)
    return _packed(config, weights, max_positions, sixteen=False)


def _packed(config: ModelConfig, weights: Weights, max_positions: int, *, sixteen: bool) -> Model:
    panels, vectors = _Arena(sixteen), _Arena(sixteen)
    embedding = weights.get("model.embed_tokens.weight", (config.vocab_size, config.hidden_size))
    layers = [_pack_layer(config, weights, index, panels, vectors) for index in range(config.num_layers)]
    norm = vectors.add(weights.get("model.norm.weight", (config.hidden_size,)))
    head = embedding if config.tie_embeddings else weights.get("lm_head.weight", tuple(embedding.shape))
    at_head = panels.add(head)
    cos, sin = rope_table(config.rope, config.head_dim, max_positions)
    return Model(
        hidden=config.hidden_size,
        ffn=_panels(config.intermediate_size),
        vocab=config.vocab_size,
        heads=(config.num_heads, config.num_kv_heads, config.head_dim, padded_head(config)),
        eps=np.float32(config.norm_eps),
        scale=np.float32(math.log2(math.e) / math.sqrt(config.head_dim)),
        gelu=config.activation != "silu",
        weights=panels.joined(),  # type: ignore[arg-type]
        layers=np.array([[layer[field] for field in LAYER_FIELDS] for layer in layers]),
        vectors=vectors.joined(),  # type: ignore[arg-type]
        norm=norm,
        head=at_head,
        table=as_stored(embedding, sixteen).reshape(-1).copy(),  # type: ignore[arg-type]
        cos=cos.reshape(-1).numpy(),
        sin=sin.reshape(-1).numpy(),
    )


def padded_head(config: ModelConfig) -> int:
    """Elements of a head in memory: whole vectors."""
    return -(-config.head_dim // LANES) * LANES


def _pack_layer(
    config: ModelConfig, weights: Weights, index: int, panels: _Arena, vectors: _Arena
) -> dict[str, int]:
    prefix, hidden, ffn = f"model.layers.{index}", config.hidden_size, config.intermediate_size
    attn, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
    spare = config.head_dim, padded_head(config) - config.head_dim

    def matrix(name: str, outputs: int, inputs: int) -> torch.Tensor:
        return weights.get(f"{name}.weight", (outputs, inputs))

    def bias(
        present: bool, *names: str, sizes: tuple[int, ...], pad: Callable[[torch.Tensor], torch.Tensor]
    ) -> int:
        if not present:
            return _NONE
        return vectors.add(
            torch.cat(
                [pad(weights.get(f"{name}.bias", (size,))) for name, size in zip(names, sizes, strict=True)]
            )
        )

    def pad_heads(tensor: torch.Tensor) -> torch.Tensor:
        """[heads x head_dim, ...], zeros behind each head."""
        heads = tensor.reshape(-1, spare[0], *tensor.shape[1:])
        return F.pad(heads, (0, 0) * (heads.dim() - 2) + (0, spare[1])).reshape(-1, *tensor.shape[1:])

    def pad_ffn(tensor: torch.Tensor) -> torch.Tensor:
        return F.pad(tensor, (0, 0) * (tensor.dim() - 1) + (0, _panels(ffn) - ffn))

    sizes = tuple(
        heads * config.head_dim for heads in (config.num_heads, config.num_kv_heads, config.num_kv_heads)
    )
    projections = [f"{attn}.{name}_proj" for name in "qkv"]
    qkv = torch.cat(
        [pad_heads(matrix(name, size, hidden)) for name, size in zip(projections, sizes, strict=True)]
    )
    output = pad_heads(matrix(f"{attn}.o_proj", hidden, sizes[0]).t()).t()
    down = pad_ffn(matrix(f"{mlp}.down_proj", hidden, ffn).t()).t()
    return {
        "input_norm": vectors.add(weights.get(f"{prefix}.input_layernorm.weight", (hidden,))),
        "qkv": panels.add(qkv),
        "qkv_bias": bias(config.qkv_bias, *projections, sizes=sizes, pad=pad_heads),
        "qk_norm": _NONE
        if not config.qk_norm
        else vectors.add(
            torch.cat([weights.get(f"{attn}.{name}_norm.weight", (config.head_dim,)) for name in "qk"])
        ),
        "output": panels.add(output),
        "output_bias": bias(config.output_bias, f"{attn}.o_proj", sizes=(hidden,), pad=lambda x: x),
        "post_norm": vectors.add(weights.get(f"{prefix}.post_attention_layernorm.weight", (hidden,))),
        "gate": panels.add(pad_ffn(matrix(f"{mlp}.gate_proj", ffn, hidden))),
        "up": panels.add(pad_ffn(matrix(f"{mlp}.up_proj", ffn, hidden))),
        "gate_up_bias": bias(
            config.mlp_bias, f"{mlp}.gate_proj", f"{mlp}.up_proj", sizes=(ffn, ffn), pad=pad_ffn
        ),
        "down": panels.add(down),
        "down_bias": bias(config.mlp_bias, f"{mlp}.down_proj", sizes=(hidden,), pad=lambda x: x),
        "window": config.windows[index] or 0,
    }

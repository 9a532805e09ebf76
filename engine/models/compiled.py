"""A decoder whose step is one compiled call (`ops.compiled`): the model of `engine.models.decoder`, in float32.

Responsible for packing a checkpoint's weights into what the kernels read, and for the memory that a step needs.
Weights keep bfloat16 where the checkpoint has it: they are widened as they are read, which is exact and halves what
a decode step reads. Left to others: which rows there are, KV memory, sampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from engine.batch import AttentionPlan
from engine.models.config import ModelConfig
from engine.models.layers import Weights, rope_frequencies
from engine.runner.batch import StepInputs
from ops.attention import Plan, plan_of_rows
from ops.compiled.attention import SCRATCH
from ops.compiled.decoder import LAYER_FIELDS, PARTS, Floats, Model, Pool, Scratch, Step, forward
from ops.compiled.llvm import LANES
from ops.compiled.products import PANEL, ROW_BLOCK, to_panels

LEFT_OUT = 48
"""Rows that the last layer has to leave out, for a plan of the rest to pay."""

_NONE = -1


def can_compile(config: ModelConfig, dtype: torch.dtype, block_size: int) -> bool:
    """Whether the kernels take this model: float32, and sizes of whole panels and vectors."""
    return dtype == torch.float32 and config.hidden_size % PANEL == 0 and block_size % LANES == 0


class CompiledDecoder:
    """Weights and forward pass. One step at a time: the scratch memory is the decoder's own."""

    def __init__(
        self, config: ModelConfig, weights: Weights, max_positions: int, max_rows: int, threads: int
    ) -> None:
        self.config = config
        self._model = _pack(config, weights, max_positions)
        self._scratch = _scratch(self._model, max_rows, threads)
        self._max_rows, self._threads = max_rows, threads
        self._logits = np.empty(0, np.float32)

    @property
    def clock(self) -> dict[str, int]:
        """CPU cycles of each part of a step since the start."""
        return dict(zip(PARTS, self._scratch.clock.tolist(), strict=True))

    def compute(self, inputs: StepInputs, plan: AttentionPlan, pool: Pool) -> torch.Tensor:
        """Logits [len(logit_rows), vocab], of all rows where that is None. The next step overwrites them."""
        rows = len(inputs.positions)
        wanted = np.arange(rows) if inputs.logit_rows is None else inputs.logit_rows.numpy()
        width = -(-self.config.vocab_size // PANEL) * PANEL
        self._make_room(plan, rows, len(wanted) * width)
        step = _step(
            Plan(plan.tiles, plan.pages, plan.merge_offsets, plan.merge_parts, inputs.positions), inputs
        )
        leaves_out = bool(inputs.sampled) and not inputs.scored and len(wanted) <= rows - LEFT_OUT
        last = _step(plan_of_rows(_plan(step), wanted), inputs) if leaves_out else step
        forward(self._model, step, last, leaves_out, pool, self._scratch, wanted, self._logits)
        logits = torch.from_numpy(self._logits[: len(wanted) * width]).view(len(wanted), width)
        return logits[:, : self.config.vocab_size]

    def _make_room(self, plan: AttentionPlan, rows: int, logits: int) -> None:
        if rows > self._max_rows:
            self._max_rows = rows
            self._scratch = _scratch(self._model, rows, self._threads)
        parts = len(plan.merge_parts)  # at least one of them reads each partial result
        heads, _, _, dim = self._model.heads
        if parts * heads * 2 > len(self._scratch.stats):
            self._scratch = self._scratch._replace(
                partial=_zeros(parts * heads * dim), stats=_zeros(parts * heads * 2)
            )
        if logits > len(self._logits):
            self._logits = _zeros(logits)


def _plan(step: Step) -> Plan:
    return Plan(step.tiles, step.pages, step.merge_offsets, step.merge_parts, step.positions)


def _step(plan: Plan, inputs: StepInputs) -> Step:
    return Step(
        inputs.ids.numpy(),
        plan.positions,
        inputs.kv_slots.numpy(),
        plan.tiles,
        plan.pages,
        plan.merge_offsets,
        plan.merge_parts,
    )


def _zeros(count: int) -> Floats:
    """Aligned to a cache line, which vectors like."""
    array: Floats = torch.zeros(count).numpy()
    return array


def _scratch(model: Model, rows: int, threads: int) -> Scratch:
    heads, kv_heads, _, dim = model.heads
    widest = max(_panels((heads + 2 * kv_heads) * dim), model.ffn, model.hidden)
    depth = max(model.hidden, model.ffn, heads * dim)
    own = max(depth * PANEL + 2 * ROW_BLOCK * PANEL, SCRATCH)
    return Scratch(
        x=_zeros(rows * model.hidden),
        h=_zeros(rows * max(model.hidden, heads * dim)),
        wide=_zeros(rows * widest),
        q=_zeros(rows * heads * dim),
        partial=_zeros(rows * heads * dim),
        stats=_zeros(rows * heads * 2),
        threads=torch.zeros(threads, own).numpy(),
        clock=np.zeros(len(PARTS), np.int64),
    )


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


def as_stored(tensor: torch.Tensor, sixteen: bool) -> npt.NDArray[np.generic]:
    """float32, or bfloat16 as uint16. Raises ValueError where that would round."""
    if not sixteen:
        return tensor.float().contiguous().numpy()
    stored = tensor.to(torch.bfloat16)
    if stored.dtype != tensor.dtype and not torch.equal(stored.to(tensor.dtype), tensor):
        raise ValueError("not bfloat16")
    return stored.contiguous().view(torch.int16).numpy().view(np.uint16)


def _pack(config: ModelConfig, weights: Weights, max_positions: int) -> Model:
    if config.dtype == "bfloat16":
        try:
            return _packed(config, weights, max_positions, sixteen=True)
        except ValueError as error:
            if str(error) != "not bfloat16":
                raise
    return _packed(config, weights, max_positions, sixteen=False)


def _packed(config: ModelConfig, weights: Weights, max_positions: int, *, sixteen: bool) -> Model:
    panels, vectors = _Arena(sixteen), _Arena(sixteen)
    embedding = weights.get("model.embed_tokens.weight", (config.vocab_size, config.hidden_size))
    layers = [_pack_layer(config, weights, index, panels, vectors) for index in range(config.num_layers)]
    norm = vectors.add(weights.get("model.norm.weight", (config.hidden_size,)))
    head = embedding if config.tie_embeddings else weights.get("lm_head.weight", tuple(embedding.shape))
    at_head = panels.add(head)
    frequencies, scale = rope_frequencies(config.rope, config.head_dim, max_positions)
    angles = torch.arange(max_positions, dtype=torch.float32)[:, None] * frequencies[None]
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
        cos=(angles.cos() * scale).reshape(-1).numpy(),
        sin=(angles.sin() * scale).reshape(-1).numpy(),
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

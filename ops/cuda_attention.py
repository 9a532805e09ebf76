"""Paged attention on a GPU: an AttentionPlan's tiles become launches, their partial results one result.

Responsible for: checks, grids, the tensors of a step. Tiles are arranged once a step (`arrange_plan`, on the
host; `ops.cuda_tiles`) and run by every layer. Left to others: making the plan, owning the buffers (they may be
larger than a step needs, so that CUDA graphs can replay over them: the numbers of tiles are read on the device).

Shapes: R rows, H heads, D head_dim, T tiles, N blocks, K kv_heads, S slots of a block, Q parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ops.cuda_tiles import ArrangedPlan, arrange
from ops.kernels import attention
from ops.kernels.configs import AttentionConfig, attention_configs
from ops.kernels.shapes import power_of_two

Int32Array = npt.NDArray[np.int32]
_MERGE_HEADS = 8
_INTERPRETER_PROGRAMS = 2
_WAVES = 4  # of tiles, below which keys are not joined: SMs would idle at the end of a launch


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """What all attention layers of a model share.

    group_major: query heads are ordered [group, kv_heads] instead of the checkpoint's [kv_heads, group].
    deterministic: one M tile for all rows, so that a row's result does not depend on the rows beside it.
    """

    heads: int
    kv_heads: int
    head_dim: int
    block_size: int
    dtype: torch.dtype
    scale: float
    group_major: bool = False
    deterministic: bool = False

    @property
    def group(self) -> int:
        """Query heads per KV head."""
        return self.heads // self.kv_heads

    def configs(self) -> tuple[AttentionConfig, ...]:
        """The M tiles that this shape's tiles are sorted into."""
        return attention_configs(
            self.head_dim, self.group, self.block_size, self.dtype.itemsize, self.deterministic
        )


def arrange_plan(
    tiles_T6: Int32Array, rows: int, shape: AttentionShape, device: torch.device
) -> ArrangedPlan:
    """A plan's tiles as this device's launches want them, once a step. tiles: engine.batch.TILE_FIELDS.

    Deterministic: chunks stay what they are, so that a row's sums do not depend on how many tiles there are.
    """
    wanted = 0 if shape.deterministic else _wanted_tiles(shape, device)
    m_rows = tuple(config.block_m // shape.group for config in shape.configs())
    return arrange(tiles_T6, rows, m_rows, shape.block_size, wanted)


def usual_parts(rows: int, shape: AttentionShape, device: torch.device) -> int:
    """How many parts a step of so many rows has where keys are joined: less than twice the wanted tiles are left,
    and what each row has over. Many short shared runs may make it more. (Deterministic: rows x chunks.)
    """
    most_rows = shape.configs()[-1].block_m // shape.group
    return 2 * rows + 2 * most_rows * _wanted_tiles(shape, device)


def _wanted_tiles(shape: AttentionShape, device: torch.device) -> int:
    """As many as keep all programs busy to the end."""
    programs = _multiprocessors(device) * min(config.programs for config in shape.configs())
    return -(-_WAVES * programs // shape.kv_heads)


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """An AttentionPlan on the device, all int32 and contiguous. Buffers may be longer than the step's contents.

    launched: for each configuration the tiles of this step; 0 leaves its launch out. For a captured graph, the
    most that a replay may bring: what there is, ranges say. Places in pages and merge_parts count from the tensors'
    beginning, so both may be one buffer that holds everything.
    """

    tiles_T6: torch.Tensor
    ranges_C2: torch.Tensor
    pages: torch.Tensor
    positions_R: torch.Tensor
    merge_offsets: torch.Tensor
    merge_parts: torch.Tensor
    launched: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Workspace:
    """Partial results: out fp32 [Q, H, D], lse fp32 [Q, H] (natural logarithm; -inf: saw no key)."""

    out_QHD: torch.Tensor
    lse_QH: torch.Tensor


def new_workspace(parts: int, shape: AttentionShape, device: torch.device) -> Workspace:
    """Room for `parts` partial results; nothing is initialised, every part that is merged was written."""
    return Workspace(
        torch.empty(parts, shape.heads, shape.head_dim, dtype=torch.float32, device=device),
        torch.empty(parts, shape.heads, dtype=torch.float32, device=device),
    )


def upload_plan(
    arranged: ArrangedPlan, pages: Int32Array, positions_R: npt.NDArray[np.integer], device: torch.device
) -> DevicePlan:
    """A plan in fresh tensors, in one copy."""
    ranges = arranged.ranges_C2
    arrays = (
        arranged.tiles_T6,
        ranges,
        pages,
        positions_R,
        arranged.merge_offsets,
        arranged.merge_parts,
    )
    flat = [np.ascontiguousarray(array, np.int32).ravel() for array in arrays]
    padded = [np.pad(array, (0, -len(array) % 4)) for array in flat]  # each starts at 16 bytes
    buffer = torch.from_numpy(np.concatenate(padded)).to(device)
    begins = np.cumsum([0, *map(len, padded)]).tolist()
    views = [buffer[begin : begin + len(array)] for begin, array in zip(begins[:-1], flat, strict=True)]
    return DevicePlan(
        tiles_T6=views[0].view(-1, 6),
        ranges_C2=views[1].view(-1, 2),
        pages=views[2],
        positions_R=views[3],
        merge_offsets=views[4],
        merge_parts=views[5],
        launched=tuple((ranges[:, 1] - ranges[:, 0]).tolist()),
    )


def paged_attention(
    q_RHD: torch.Tensor,
    kv_N2KSD: torch.Tensor,
    plan: DevicePlan,
    workspace: Workspace,
    out_RHD: torch.Tensor,
    shape: AttentionShape,
    window: int | None = None,
    soft_cap: float | None = None,
) -> None:
    """out[r] = causal attention of row r over its sequence; see `ops.reference.paged_attention`.

    window: a row sees the last `window` keys up to its own. soft_cap: scores are cap x tanh(score / cap).
    Rows without parts (padding) become zeros.
    """
    attend_tiles(q_RHD, kv_N2KSD, plan, workspace, shape, window, soft_cap)
    merge_parts(plan, workspace, out_RHD)


@dataclass(frozen=True, slots=True)
class PlannedAttention:
    """One step's attention with one window, as every layer runs it (`ops.dispatch.Attend`)."""

    plan: DevicePlan
    workspace: Workspace
    shape: AttentionShape
    window: int | None

    def run(self, queries: torch.Tensor, kv_N2KSD: torch.Tensor) -> torch.Tensor:
        """queries: flat, the rows of the plan and perhaps more. Returns [rows, heads x head_dim]."""
        rows, heads, dim = len(self.plan.positions_R), self.shape.heads, self.shape.head_dim
        q_RHD = queries[: rows * heads * dim].view(rows, heads, dim)
        out_RHD = torch.empty_like(q_RHD)
        paged_attention(q_RHD, kv_N2KSD, self.plan, self.workspace, out_RHD, self.shape, self.window)
        return out_RHD.view(rows, heads * dim)


def attend_tiles(
    q_RHD: torch.Tensor,
    kv_N2KSD: torch.Tensor,
    plan: DevicePlan,
    workspace: Workspace,
    shape: AttentionShape,
    window: int | None = None,
    soft_cap: float | None = None,
) -> None:
    """The partial result of every row of every tile, into `workspace`. One launch per M tile in use."""
    _check(q_RHD, kv_N2KSD, workspace, shape)
    if (soft_cap is not None and soft_cap <= 0) or (window is not None and window <= 0):
        raise ValueError("soft_cap, window: need a positive number or None")
    sms = _multiprocessors(q_RHD.device)
    for index, config in enumerate(shape.configs()):
        programs = min(plan.launched[index] * shape.kv_heads, sms * config.programs)
        if not programs:
            continue
        attention.attend_tiles[(programs,)](
            q_RHD,
            kv_N2KSD,
            plan.tiles_T6,
            plan.ranges_C2[index],
            plan.pages,
            plan.positions_R,
            workspace.out_QHD,
            workspace.lse_QH,
            shape.scale,
            soft_cap or 1.0,
            window or 0,
            q_RHD.stride(0),
            q_RHD.stride(1),
            *kv_N2KSD.stride()[:4],
            KV_HEADS=shape.kv_heads,
            GROUP=shape.group,
            GROUP_STEP=shape.kv_heads if shape.group_major else 1,
            HEAD_STEP=1 if shape.group_major else shape.group,
            DIM=shape.head_dim,
            PAGE=shape.block_size,
            SOFT_CAP=soft_cap is not None,
            WINDOW=window is not None,
            BLOCK_M=config.block_m,
            BLOCK_N=config.block_n,
            BLOCK_D=max(16, power_of_two(shape.head_dim)),
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )


def merge_parts(plan: DevicePlan, workspace: Workspace, out_RHD: torch.Tensor) -> None:
    """Merge each row's partial results in the plan's order; see `ops.reference.merge_states`."""
    rows, heads, dim = out_RHD.shape
    if workspace.out_QHD.shape[1:] != (heads, dim) or out_RHD.stride(2) != 1:
        raise ValueError(
            f"out: need [rows, {', '.join(map(str, workspace.out_QHD.shape[1:]))}], dim contiguous"
        )
    if len(plan.merge_offsets) <= rows:
        raise ValueError(f"merge_offsets: {len(plan.merge_offsets)} do not serve {rows} rows")
    if not rows:
        return
    attention.merge_parts[(rows, -(-heads // _MERGE_HEADS))](
        workspace.out_QHD,
        workspace.lse_QH,
        plan.merge_offsets,
        plan.merge_parts,
        out_RHD,
        out_RHD.stride(0),
        out_RHD.stride(1),
        HEADS=heads,
        DIM=dim,
        BLOCK_HEADS=min(_MERGE_HEADS, power_of_two(heads)),
        BLOCK_D=power_of_two(dim),
        num_warps=4,
    )


def _check(q_RHD: torch.Tensor, kv_N2KSD: torch.Tensor, workspace: Workspace, shape: AttentionShape) -> None:
    if q_RHD.dim() != 3 or q_RHD.shape[1:] != (shape.heads, shape.head_dim) or q_RHD.stride(2) != 1:
        raise ValueError(f"q: need [rows, {shape.heads}, {shape.head_dim}], dim contiguous")
    wanted = (2, shape.kv_heads, shape.block_size, shape.head_dim)
    if kv_N2KSD.shape[1:] != wanted or kv_N2KSD.stride(4) != 1:
        raise ValueError(f"kv: need [blocks, {', '.join(map(str, wanted))}], dim contiguous")
    if q_RHD.dtype != shape.dtype or kv_N2KSD.dtype != shape.dtype:
        raise ValueError(f"q, kv: {q_RHD.dtype} and {kv_N2KSD.dtype}, but the shape says {shape.dtype}")
    if shape.heads % shape.kv_heads:
        raise ValueError(f"{shape.heads} heads are no multiple of {shape.kv_heads} kv heads")
    out, lse = workspace.out_QHD, workspace.lse_QH
    if out.dtype != torch.float32 or lse.dtype != torch.float32:
        raise ValueError("workspace: need fp32")
    if out.shape[1:] != (shape.heads, shape.head_dim) or lse.shape != out.shape[:2]:
        raise ValueError(f"workspace: need [parts, {shape.heads}, {shape.head_dim}] and [parts, heads]")
    if not (out.is_contiguous() and lse.is_contiguous()):
        raise ValueError("workspace: need contiguous tensors")


def _multiprocessors(device: torch.device) -> int:
    """Of a GPU; under the interpreter so few that programs loop over several tiles."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return _INTERPRETER_PROGRAMS

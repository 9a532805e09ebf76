"""On what each engine process computes: its GPU, or its share of the CPU's cores.

Responsible for the decision alone, pure: flags and environment come in. A GPU is handed to its engine by
CUDA_VISIBLE_DEVICES, which is set before the process begins, so that torch sees that one and no other. Leaves to
others: whether there is such a GPU (the engine finds out, since the server has no torch).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.config import ServerConfig


class PlacementError(Exception):
    """A device was asked for that cannot be there; the message names the flag."""


@dataclass(frozen=True, slots=True)
class Place:
    """visible_device: CUDA_VISIBLE_DEVICES of the process; None: as inherited. sharers: engines on that device.

    cores: pin the process to these; None: to none.
    """

    visible_device: str | None = None
    sharers: int = 1
    cores: tuple[int, ...] | None = None


def place_engines(config: ServerConfig, inherited: str | None, cores: Sequence[int]) -> list[Place]:
    """A place for each engine. `inherited`: the server's own CUDA_VISIBLE_DEVICES, whose entries --devices counts.

    Without --devices nobody knows yet whether there is a GPU; if there is, all engines share the first one.
    Raises PlacementError.
    """
    if config.devices:
        visible = [_visible(entry, inherited) for entry in config.devices]
        return [Place(device, visible.count(device)) for device in visible]
    hidden = "" if config.device == "cpu" else None
    shares = _shares_of_cores(config.engines, cores) if config.device != "cuda" else [None] * config.engines
    return [Place(hidden, config.engines, share) for share in shares]


def _visible(entry: str, inherited: str | None) -> str:
    if inherited is None or not entry.isdigit():
        return entry
    names = [name for name in inherited.split(",") if name]
    if int(entry) >= len(names):
        raise PlacementError(
            f"--devices {entry}: there is no such GPU, CUDA_VISIBLE_DEVICES={inherited} leaves {len(names)}"
        )
    return names[int(entry)].strip()


def _shares_of_cores(engines: int, cores: Sequence[int]) -> list[tuple[int, ...] | None]:
    """Disjoint shares, so that engines do not run on each other's cores; a single engine takes all."""
    if engines == 1 or len(cores) < engines:
        return [None] * engines
    return [tuple(cores[index::engines]) for index in range(engines)]

"""The ways of serving that are compared, all on the same engine and kernels.

`none` request-level, no sharing, FIFO (the paper's baseline); `radix` request-level with prefix cache and chunked
prefill (what today's servers do: the baseline that counts); `ours` programs with everything on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp

from bench.apps import App, Outputs, run_as_program, run_as_requests
from bench.network import Network

Run = Callable[[aiohttp.ClientSession, str, App, Network], Awaitable[Outputs]]


@dataclass(frozen=True, slots=True)
class Mode:
    name: str
    run: Run
    disabled: tuple[str, ...] = ()
    more_flags: tuple[str, ...] = ()

    @property
    def flags(self) -> tuple[str, ...]:
        return (*(("--disable", ",".join(self.disabled)) if self.disabled else ()), *self.more_flags)


NONE = Mode("none", run_as_requests, ("prefix-cache", "in-flight-dedup", "shared-prefix-attention"))
RADIX = Mode("radix", run_as_requests, ("in-flight-dedup", "shared-prefix-attention"))
OURS = Mode("ours", run_as_program)
MODES = {mode.name: mode for mode in (NONE, RADIX, OURS)}

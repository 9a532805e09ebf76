"""The ways of serving that are compared, all on the same engine and kernels.

    none     request-level, no sharing, first come first served: the paper's baseline
    radix    request-level, prefix cache, chunked prefill, least loaded engine: what today's servers do
    parrot   programs, Algorithm 1 and shared prefixes as published, nothing beyond the paper
    ours     programs, everything on

A mode names the features that are on; what `--disable` has to say follows from all there are, so that a feature
that is new is on in `ours` alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from server.config import FEATURES


@dataclass(frozen=True, slots=True)
class Mode:
    """`programs`: applications are sent whole; else a client of ours sends a request for each call."""

    name: str
    programs: bool
    features: frozenset[str]
    more_flags: tuple[str, ...] = ()

    @property
    def disabled(self) -> tuple[str, ...]:
        return tuple(name for name in FEATURES if name not in self.features)

    @property
    def flags(self) -> tuple[str, ...]:
        return (*(("--disable", ",".join(self.disabled)) if self.disabled else ()), *self.more_flags)

    def without(self, *features: str, name: str = "") -> Mode:
        """The same with features off. Raises ValueError for a name that is none, and so would change nothing."""
        if unknown := set(features) - self.features:
            raise ValueError(f"{self.name} does not have {', '.join(sorted(unknown))}")
        return replace(self, name=name or "without", features=self.features - set(features))

    def started_with(self, *flags: str, name: str = "") -> Mode:
        return replace(self, name=name or self.name, more_flags=(*self.more_flags, *flags))


AS_PUBLISHED = frozenset(
    {
        "prefix-cache",
        "shared-prefix-attention",
        "chunked-prefill",
        "affinity",
        "task-groups",
        "app-fifo",
        "step-limits",
    }
)

ENGINE = frozenset({"overlap", "cuda-graphs", "compiled-kernels"})
"""How an engine runs its steps, which is no matter of what it is asked for: on in every mode."""

NONE = Mode("none", False, ENGINE)
RADIX = Mode("radix", False, ENGINE | {"prefix-cache", "chunked-prefill"})
PARROT = Mode("parrot", True, ENGINE | AS_PUBLISHED)
OURS = Mode("ours", True, frozenset(FEATURES))
MODES = {mode.name: mode for mode in (NONE, RADIX, PARROT, OURS)}


def chosen(names: list[str]) -> list[Mode]:
    return [MODES[name] for name in names]

"""Which prefixes an engine has, as far as the scheduler can know.

    held        of the tasks placed there: they take KV, shared ones once
    idle        of tasks that ended: kept while there is room beside the held ones, the oldest are forgotten first

Responsible for: that estimate, from the prefix hashes at the boundaries of prompts. A boundary stands for the ids
from the boundary before it, as the first task with it had them. Leaves the truth to the engine's radix tree.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from server.scheduler.events import TaskSpec


@dataclass(slots=True)
class Prefix:
    """`tokens`: between the boundary before and this one."""

    tokens: int
    holders: int = 0


@dataclass(slots=True)
class Residency:
    """Owned by `cost.Engine`. `held` and `idle` together stay within `capacity` unless `held` alone is more."""

    capacity: int
    held: int = 0
    idle: int = 0
    _prefixes: dict[bytes, Prefix] = field(default_factory=dict)
    _idle: OrderedDict[bytes, None] = field(default_factory=OrderedDict)

    def hold(self, spec: TaskSpec) -> None:
        start = 0
        for hash, end in zip(spec.prefix_hashes, spec.prefix_tokens, strict=True):
            prefix = self._prefixes.get(hash)
            if prefix is None:
                prefix = self._prefixes[hash] = Prefix(end - start)
                self.held += prefix.tokens
            elif not prefix.holders:
                del self._idle[hash]
                self.idle -= prefix.tokens
                self.held += prefix.tokens
            prefix.holders += 1
            start = end
        self.held += beyond_boundaries(spec)
        self._forget()

    def release(self, spec: TaskSpec) -> None:
        """Longest first, so that a prefix is forgotten after what continues it."""
        self.held -= beyond_boundaries(spec)
        for hash in reversed(spec.prefix_hashes):
            prefix = self._prefixes[hash]
            prefix.holders -= 1
            if not prefix.holders:
                self.held -= prefix.tokens
                self.idle += prefix.tokens
                self._idle[hash] = None
        self._forget()

    def resize(self, capacity: int) -> None:
        self.capacity = capacity
        self._forget()

    def known(self, spec: TaskSpec) -> int:
        """Tokens of the longest prefix that is there, or will be when those before have been computed."""
        for hash, tokens in zip(reversed(spec.prefix_hashes), reversed(spec.prefix_tokens), strict=True):
            if hash in self._prefixes:
                return tokens
        return 0

    def is_known(self, hash: bytes) -> bool:
        return hash in self._prefixes

    def is_held(self, hash: bytes) -> bool:
        prefix = self._prefixes.get(hash)
        return prefix is not None and prefix.holders > 0

    def _forget(self) -> None:
        while self._idle and self.held + self.idle > self.capacity:
            hash, _ = self._idle.popitem(last=False)
            self.idle -= self._prefixes.pop(hash).tokens

    def check_invariants(self, specs: Iterable[TaskSpec]) -> None:
        """`specs`: of the tasks that are placed there."""
        specs = list(specs)
        counts: dict[bytes, int] = {}
        for spec in specs:
            for hash in spec.prefix_hashes:
                counts[hash] = counts.get(hash, 0) + 1
        assert counts == {hash: p.holders for hash, p in self._prefixes.items() if p.holders}
        assert self._idle.keys() == {hash for hash, p in self._prefixes.items() if not p.holders}
        assert self.idle == sum(self._prefixes[hash].tokens for hash in self._idle)
        shared = sum(prefix.tokens for prefix in self._prefixes.values() if prefix.holders)
        assert self.held == shared + sum(map(beyond_boundaries, specs))
        assert not self._idle or self.held + self.idle <= self.capacity


def footprint(spec: TaskSpec) -> int:
    """KV tokens that a task takes, as far as can be expected."""
    output = spec.max_tokens if spec.expected_tokens is None else min(spec.expected_tokens, spec.max_tokens)
    return spec.num_tokens + output


def beyond_boundaries(spec: TaskSpec) -> int:
    """What it shares with nobody."""
    return footprint(spec) - (spec.prefix_tokens[-1] if spec.prefix_tokens else 0)

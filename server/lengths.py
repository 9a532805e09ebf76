"""How long outputs are likely to be, from what the same template gave before.

A running histogram of each template, with the older outputs counting less; a template that has not been seen often
enough is judged by its tenant's outputs, and a tenant that has not by `max_tokens`. Nothing is learnt of one tenant
from another: what is kept lies under its id.

Responsible for: these figures, from a bounded memory. Estimates only. Source: length prediction by prompt template,
as in Hermes (arXiv 2506.14851).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import blake2b

from server.graph.call import Task
from server.graph.template import Constant

MAX_TEMPLATES = 10_000
ENOUGH = 3
"""Outputs that must have been seen."""

FORGETTING = 0.98
"""Of the weight of what was seen before, per output: a memory of about 50."""

LONG = 0.9
"""The share of outputs that `at_most` is to cover."""

_BOUNDS = tuple(sorted({round(math.sqrt(2.0) ** n) for n in range(41)}))
"""Upper bounds of the buckets, in tokens: 1 .. 2**20, two to each doubling."""


@dataclass(slots=True)
class Histogram:
    """Of lengths in tokens. `total` and `weight` are of the mean."""

    seen: int = 0
    total: float = 0.0
    weight: float = 0.0
    counts: dict[int, float] = field(default_factory=dict)  # bound -> weight

    def observe(self, tokens: int) -> None:
        self.seen += 1
        self.total = self.total * FORGETTING + tokens
        self.weight = self.weight * FORGETTING + 1.0
        counts = {bound: count * FORGETTING for bound, count in self.counts.items() if count > 1e-3}
        bound = _BOUNDS[min(bisect_left(_BOUNDS, tokens), len(_BOUNDS) - 1)]
        counts[bound] = counts.get(bound, 0.0) + 1.0
        self.counts = counts

    @property
    def mean(self) -> float:
        return self.total / self.weight

    def quantile(self, share: float) -> int:
        """The bound that so large a share of the weight is within."""
        wanted = sum(self.counts.values()) * share
        for bound in sorted(self.counts):
            wanted -= self.counts[bound]
            if wanted <= 1e-9:
                return bound
        return max(self.counts)


class Lengths:
    """Owns the histograms; those that were not used for longest are forgotten first. `off`: nothing is learnt."""

    def __init__(self, *, off: bool = False) -> None:
        self._off = off
        self._histograms: OrderedDict[bytes, Histogram] = OrderedDict()

    def __len__(self) -> int:
        return len(self._histograms)

    def observe(self, tenant: str, template: bytes, tokens: int) -> None:
        """An output came to its end by itself."""
        if self._off:
            return
        for key in (template, _of_tenant(tenant)):
            self._histograms.setdefault(key, Histogram()).observe(tokens)
            self._histograms.move_to_end(key)
        while len(self._histograms) > MAX_TEMPLATES:
            self._histograms.popitem(last=False)

    def expected(self, tenant: str, template: bytes, max_tokens: int) -> int:
        """Tokens, on average."""
        found = self._find(tenant, template)
        return max_tokens if found is None else max(1, min(round(found.mean), max_tokens))

    def at_most(self, tenant: str, template: bytes, max_tokens: int) -> int:
        """Tokens that most outputs do not exceed: for what is to have room."""
        found = self._find(tenant, template)
        return max_tokens if found is None else max(1, min(found.quantile(LONG), max_tokens))

    def _find(self, tenant: str, template: bytes) -> Histogram | None:
        for key in (template, _of_tenant(tenant)):
            found = self._histograms.get(key)
            if found is not None and found.seen >= ENOUGH:
                self._histograms.move_to_end(key)
                return found
        return None


def template_of(tenant: str, task: Task) -> bytes:
    """What the outputs of one place in one template have in common, whatever their inputs are bound to."""
    digest = blake2b(tenant.encode(errors="surrogatepass"), digest_size=16, person=b"template")
    for segment in task.call.spec.segments[: task.end + 1]:
        kind, text = ("t", segment.text) if isinstance(segment, Constant) else ("v", segment.name)
        digest.update(f"{kind}{len(text)}:{text}".encode(errors="surrogatepass"))
    return digest.digest()


def _of_tenant(tenant: str) -> bytes:
    return blake2b(tenant.encode(errors="surrogatepass"), digest_size=16, person=b"tenant").digest()

"""Runs the loads on several servers in turn, and keeps what was seen.

All servers are up at once and one of them is loaded at a time; which one goes first turns from round to round. What
the others use of the CPU meanwhile is counted, so that nobody can say that they were in the way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.checkpoint import load_tokenizer, words
from bench.peers.contestants import Contestant
from bench.peers.load import Load, Run, Unusable, run
from bench.peers.processes import Peer

ATTEMPTS = 3
_FIRST = Load("first", 1, 1, 0, 16, 8)


@dataclass(slots=True)
class Seen:
    """Of one contestant: runs by load; seconds from its process's start to its first token."""

    cold_start_s: list[float] = field(default_factory=list)
    runs: dict[str, list[Run]] = field(default_factory=dict)
    resident_mb: float = 0.0
    rejected: int = 0
    idle_share: float = 0.0


class Comparison:
    """Owns the servers while it is entered."""

    def __init__(self, folder: Path, contestants: Sequence[Contestant], loads: Sequence[Load]) -> None:
        self._contestants, self._loads = contestants, loads
        self._tokenizer = load_tokenizer(folder)
        self._vocabulary = words(self._tokenizer)
        self._stack = ExitStack()
        self._peers: dict[str, Peer] = {}
        self._idle: dict[str, list[tuple[float, float]]] = {each.name: [] for each in contestants}
        self.seen: dict[str, Seen] = {each.name: Seen() for each in contestants}

    def __enter__(self) -> Comparison:
        try:
            for contestant in self._contestants:
                peer = self._stack.enter_context(contestant.running())
                self._peers[contestant.name] = peer
                self._one(contestant, _FIRST, "cold")
                self.seen[contestant.name].cold_start_s.append(time.perf_counter() - peer.started)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def log_of(self, name: str) -> str:
        return self._peers[name].text()

    def rounds(self, count: int) -> None:
        """A round that is not kept, with other prompts, then `count` that are."""
        for number in range(-1, count):
            for load in self._loads:
                shift = max(number, 0) % len(self._contestants)
                for contestant in (*self._contestants[shift:], *self._contestants[:shift]):
                    result = self._one(contestant, load, f"round {number}")
                    if number >= 0:
                        self.seen[contestant.name].runs.setdefault(load.name, []).append(result)
                        print(
                            f"  {number} {load.name:10} {contestant.name:24} {_summary(result)}", flush=True
                        )
        for name, peer in self._peers.items():
            self.seen[name].resident_mb = peer.peak_resident_mb()
            idle = self._idle[name]
            self.seen[name].idle_share = sum(used for used, _ in idle) / max(1e-9, sum(of for _, of in idle))

    def _one(self, contestant: Contestant, load: Load, seed: str) -> Run:
        others = {name: peer for name, peer in self._peers.items() if name != contestant.name}
        for attempt in range(ATTEMPTS):
            prompts = load.prompts(self._vocabulary, f"{seed} {attempt}")
            before = _cpu(others)
            peer = self._peers[contestant.name]
            try:
                result = asyncio.run(run(load, prompts, self._tokenizer, contestant, peer))
            except Unusable as error:
                print(f"  refused: {error}", flush=True)
                self.seen[contestant.name].rejected += 1
                continue
            for name, used in _cpu(others).items():
                self._idle[name].append((used - before[name], result.seconds))
            return result
        raise RuntimeError(f"{contestant.name} {load.name}: no usable run in {ATTEMPTS}")


def _cpu(peers: Mapping[str, Peer]) -> dict[str, float]:
    return {name: sum(peer.cpu_seconds().values()) for name, peer in peers.items()}


def _summary(result: Run) -> str:
    return f"{result.tokens / result.seconds:8.1f} tokens/s, {result.seconds:6.2f} s"

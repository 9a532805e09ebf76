"""What a load tester says of a run, and what the server's own metrics say of the same time."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType

from bench.serving import Server

TOLERANCE = 0.05
EVERY_S = 0.5
PROMPT_TOKENS = 512
OUTPUT_TOKENS = 128
"""Of every request, whatever sends it."""


@dataclass(frozen=True, slots=True)
class Load:
    """So many at a time, for so long, or until so many requests have been sent: each tool takes one of the two."""

    url: str
    users: int
    seconds: float
    requests: int


@dataclass(frozen=True, slots=True)
class Figures:
    """Requests that ended as they should, tokens generated for them; means of all of them, in milliseconds."""

    requests: float
    output_tokens: float
    tokens_per_s: float
    ttft_ms: float
    inter_token_ms: float

    def differences(self, other: Figures) -> dict[str, float]:
        """Of each figure: by which share of the other's it is larger."""
        names = self.__dataclass_fields__
        return {name: getattr(self, name) / getattr(other, name) - 1 for name in names}


@dataclass(slots=True)
class Watch:
    """A context manager that reads the server's metrics all the while; `figures` is what they say of it."""

    server: Server
    _before: dict[str, float] = field(default_factory=dict)
    _after: dict[str, float] = field(default_factory=dict)
    _tokens: list[tuple[float, float]] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Watch:
        self._before = self._read()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        assert self._thread is not None
        self._thread.join()
        self._after = self._read()

    def figures(self) -> Figures:
        delta = {name: after - self._before[name] for name, after in self._after.items()}
        seconds = self._busy_s()
        return Figures(
            requests=delta["e2e_request_latency_seconds_count"],
            output_tokens=delta["generation_tokens_total"],
            tokens_per_s=delta["generation_tokens_total"] / seconds,
            ttft_ms=1e3 * _mean(delta, "time_to_first_token_seconds"),
            inter_token_ms=1e3 * _mean(delta, "inter_token_latency_seconds"),
        )

    def _busy_s(self) -> float:
        """From the last sample before the first token to the first one after the last."""
        counts = [tokens for _, tokens in self._tokens]
        first = next(i for i, tokens in enumerate(counts) if tokens > counts[0])
        last = counts.index(counts[-1])
        return self._tokens[last][0] - self._tokens[max(0, first - 1)][0]

    def _sample(self) -> None:
        while True:
            self._tokens.append((time.monotonic(), self.server.metric("vllm:generation_tokens_total")))
            if self._ended.wait(EVERY_S):
                return

    def _read(self) -> dict[str, float]:
        names = ["generation_tokens_total", "e2e_request_latency_seconds_count"]
        for name in ("time_to_first_token_seconds", "inter_token_latency_seconds"):
            names += [f"{name}_sum", f"{name}_count"]
        return {name: self.server.metric(f"vllm:{name}") for name in names}


def _mean(delta: dict[str, float], name: str) -> float:
    return delta[f"{name}_sum"] / delta[f"{name}_count"]

from __future__ import annotations

import time

from server.admission import Admission, Bounds
from server.metrics import Metrics, RequestClock
from server.scheduler.events import TaskSpec

HOUR_S = 3600.0


def test_times_count_from_when_a_client_asked_not_from_when_its_prompt_had_become_tokens() -> None:
    metrics, admission = Metrics("m"), Admission(Bounds(64, 100, 10_000))
    spec = TaskSpec(task_id=1, app="a", num_tokens=5, max_tokens=3)
    now = time.monotonic()
    for arrived in (now, now - HOUR_S, None):
        clock = RequestClock(metrics, admission, spec, arrived)
        clock.sent()
        clock.tokens(1, 0.0)
        clock.tokens(1, None)
        clock.finish("stop")
    assert HOUR_S <= metrics.time_to_first_token.sum < HOUR_S + 60
    assert HOUR_S <= metrics.e2e.sum < HOUR_S + 60
    assert HOUR_S <= metrics.queue_time.sum < HOUR_S + 60
    assert metrics.inter_token.sum < 60

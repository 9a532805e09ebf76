"""The one way in which a request's generations run, whatever format it came in.

Responsible for: taking the work or refusing it, letting another request cancel it by id, and leaving every
generation when the handler ends: a client that goes frees the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from server.http import fanout
from server.http.live import LiveRequests
from server.http.openai_job import Job
from server.http.sinks import Sink
from server.service import Service
from server.tenant import Tenant

E = TypeVar("E")


def admitted(
    service: Service, live: LiveRequests, owner: Tenant, job: Job[E], arrived: float | None = None
) -> Sequence[fanout.Generation]:
    """The generations of `job`, not begun. `owner` is who counts; the job's tenant may have a salt of its own.
    `arrived`: when, for the metrics; None: now.

    Raises Unavailable, TooManyRequests.
    """
    tokens = sum(len(job.prompt_of(index).token_ids) for index in range(len(job.params)))
    service.admit(owner, requests=len(job.params), tokens=tokens, alongside=live.count(owner))
    return [
        service.generate(
            job.prompt_of(index).token_ids,
            params,
            tenant=job.tenant,
            objective=job.objective,
            request_id=job.id,
            index=index,
            program=job.hints.program,
            expected_tokens=job.hints.expected_tokens,
            arrived=arrived,
        )
        for index, params in enumerate(job.params)
    ]


async def run(
    live: LiveRequests,
    owner: Tenant,
    job: Job[E],
    generations: Sequence[fanout.Generation],
    sink: Sink,
    answer_id: str | None = None,
) -> None:
    """Returns when all have ended. Raises Gone when another request has cancelled this one, and ApiError.

    `answer_id`: of an answer whose id is not made of its request's; it can be cancelled by either.
    """
    with live.counted(owner):
        async with live.tracked(owner, answer_id or job.id, job.id):
            await fanout.run(generations, sink)

"""The same requests on transformers' continuous batching: reads `Work` from stdin, writes `Worked` to stdout.

A process of its own, so that neither side's memory or threads are in the other's way. Random weights of the same
shape, bf16, greedy, forced lengths; its own defaults for everything else, with the hints `generate_batch` gives it.
The first round, an eighth as long and of other prompts, warms up and is not timed.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import msgspec


class Work(msgspec.Struct, frozen=True):
    """model: a folder with config.json. outputs: tokens of each prompt's answer."""

    model: str
    device: str
    prompts: list[list[int]]
    outputs: list[int]
    limit_s: float  # from the start of this process; what is not done by then is given up


class Worked(msgspec.Struct, frozen=True):
    """seconds: of the timed round, or how long it ran without being done. counts: tokens of each answer."""

    seconds: float
    done: bool
    counts: list[int]
    version: str
    attention: str


def main() -> int:
    started = time.monotonic()
    work = msgspec.json.decode(sys.stdin.buffer.read(), type=Work)
    answer, sys.stdout = sys.stdout, sys.stderr  # what the library prints is no answer
    answer.write(msgspec.json.encode(_serve(work, started + work.limit_s)).decode() + "\n")
    answer.flush()
    os._exit(0)  # its threads would first end all requests


def _serve(work: Work, deadline: float) -> Worked:
    import torch
    import transformers

    with torch.no_grad():
        model = _model(work)
        manager = _manager(model, work)
        manager.warmup()
    manager.start()
    warm = [ids[::-1] for ids in work.prompts]  # others, or their blocks would be found again
    short = [max(2, output // 8) for output in work.outputs]
    if len(_round(manager, warm, short, deadline)) < len(short):
        raise RuntimeError("it was not warm in time")
    begun = time.perf_counter()
    counts = _round(manager, work.prompts, work.outputs, deadline)
    seconds = time.perf_counter() - begun
    attention = str(model.config._attn_implementation)
    return Worked(seconds, len(counts) == len(work.outputs), counts, transformers.__version__, attention)


def _manager(model: Any, work: Work) -> Any:
    """With its own defaults on a GPU; what it infers where there is none is far too much."""
    import transformers
    from transformers.generation.configuration_utils import ContinuousBatchingConfig
    from transformers.generation.continuous_batching.utils import WorkloadHints

    page = "page_size" if hasattr(ContinuousBatchingConfig, "page_size") else "block_size"  # until 5.17
    sizes: dict[str, Any] = (
        {"num_blocks": 64, page: 32, "max_batch_tokens": 256} if work.device == "cpu" else {}
    )
    untyped: Any = transformers
    generation = untyped.GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
    return model.init_continuous_batching(
        generation_config=generation,
        continuous_batching_config=ContinuousBatchingConfig(**sizes),
        workload_hints=WorkloadHints(
            max_prompt_length=max(map(len, work.prompts)),
            max_generated_length=max(work.outputs),
            num_requests=len(work.prompts),
        ),
    )


def _model(work: Work) -> Any:  # transformers has no usable types here
    import torch
    import transformers

    untyped: Any = transformers
    config = untyped.AutoConfig.from_pretrained(work.model)
    with torch.device(work.device):
        model = untyped.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return model.eval()


def _round(manager: Any, prompts: list[list[int]], outputs: list[int], deadline: float) -> list[int]:
    """All requests at once; how many tokens each got, or of fewer requests when the deadline came first.

    Raises RuntimeError when one fails or the loop dies.
    """
    ids = [
        manager.add_request(prompt, max_new_tokens=output, eos_token_id=-1)
        for prompt, output in zip(prompts, outputs, strict=True)
    ]
    counts: dict[str, int] = {}
    while len(counts) < len(outputs) and time.monotonic() < deadline:
        result = manager.get_result(timeout=1)
        if result is None:
            if not manager.is_running():
                raise RuntimeError("its generation thread ended")
        elif result.error is not None:
            raise RuntimeError(f"{result.request_id}: {result.error}")
        elif result.is_finished():
            counts[result.request_id] = len(result.generated_tokens)
    return [counts[id] for id in ids if id in counts]


if __name__ == "__main__":
    sys.exit(main())

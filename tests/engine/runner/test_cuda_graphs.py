"""Buckets, and what happens around a capture; captures themselves need a GPU."""

from __future__ import annotations

import pytest
import torch

from engine.runner.cuda_graphs import StepGraphs, bucket_sizes


@pytest.mark.parametrize("most", [1, 3, 8, 64, 100, 256, 700])
def test_every_batch_fits_a_bucket_that_is_little_larger(most: int) -> None:
    sizes = bucket_sizes(most)
    assert list(sizes) == sorted(set(sizes))
    assert sizes[-1] == most
    graphs = StepGraphs(most, enabled=False)
    for rows in range(1, most + 1):
        bucket = graphs.bucket(rows)
        assert rows <= bucket
        assert bucket - rows < max(8, bucket / 4 + 1)


def test_without_graphs_every_step_is_computed() -> None:
    graphs = StepGraphs(8, enabled=False)
    results = [graphs.run((4, (True,)), lambda: torch.ones(1)) for _ in range(2)]
    assert results[0] is not results[1]
    assert graphs.num_captured == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="here a capture works")
def test_a_capture_that_fails_is_said_once_and_turns_graphs_off(caplog: pytest.LogCaptureFixture) -> None:
    graphs = StepGraphs(8, enabled=True)
    for _ in range(3):
        assert graphs.run((4, (True,)), lambda: torch.ones(1)).tolist() == [1.0]
    assert [record.message for record in caplog.records if "CUDA graphs are off" in record.message] == [
        caplog.records[0].message
    ]

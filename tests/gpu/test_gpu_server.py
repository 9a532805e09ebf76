"""The server on a GPU: `--devices`, and two engines on one of them."""

from __future__ import annotations

import json
import urllib.request

import pytest
import torch

pytest.importorskip("triton")
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA GPU", allow_module_level=True)

from bench import serving
from bench.serving import Server, serve


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first start on a machine compiles every kernel."""
    monkeypatch.setattr(serving, "START_TIMEOUT_S", 300.0)


def _complete(server: Server, prompt: str) -> str:
    body = {"prompt": prompt, "max_tokens": 24, "temperature": 0, "ignore_eos": True}
    request = urllib.request.Request(
        server.url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        text: str = json.load(answer)["choices"][0]["text"]
    return text


@pytest.mark.parametrize("devices", ["0", "0,0"])
def test_the_bundled_model_answers_on_the_devices_that_are_named(devices: str) -> None:
    with serve("--devices", devices, "--deterministic") as server:
        assert _complete(server, "Once upon a time") == _complete(server, "Once upon a time") != ""
        assert len(server.engine_pids()) == devices.count("0")
        name = torch.cuda.get_device_name(0)
    assert server.text().count(f"on {name}") == devices.count("0")


def test_without_a_flag_a_gpu_is_used_and_device_cpu_leaves_it_alone() -> None:
    with serve() as server:
        assert torch.cuda.get_device_name(0) in server.text()
    with serve("--device", "cpu") as server:
        assert "on cpu" in server.text()

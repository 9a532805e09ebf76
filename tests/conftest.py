"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from bench.serving import Server, serve

# As in the Makefile, for those who call pytest themselves: spinning threads starve the processes beside them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def bundled_server() -> Iterator[Server]:
    """The default server: the bundled model on the CPU."""
    with serve() as server:
        yield server


@pytest.fixture(scope="session")
def server_url(bundled_server: Server) -> str:
    """Where the default server answers, without /v1."""
    return bundled_server.url


@pytest.fixture(scope="session")
def sim_server() -> Iterator[Server]:
    """A server on the simulated engine: real everything but the model."""
    with serve("--engine", "sim") as server:
        yield server


@pytest.fixture(scope="session")
def sim_url(sim_server: Server) -> str:
    return sim_server.url

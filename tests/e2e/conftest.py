from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.e2e.api import Api


@pytest.fixture(scope="session")
def client(server_url: str) -> Iterator[OpenAI]:
    """The `openai` package at the default server."""
    with OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def model(client: OpenAI) -> str:
    return client.models.list().data[0].id


@pytest.fixture
def api(server_url: str) -> Api:
    """The default server, with the bundled model."""
    return Api(server_url)


@pytest.fixture
def sim(sim_url: str) -> Api:
    """A server on the simulated engine."""
    return Api(sim_url)

from __future__ import annotations

import pytest

from tests.e2e.api import Api


@pytest.fixture
def api(server_url: str) -> Api:
    """The default server, with the bundled model."""
    return Api(server_url)


@pytest.fixture
def sim(sim_url: str) -> Api:
    """A server on the simulated engine."""
    return Api(sim_url)

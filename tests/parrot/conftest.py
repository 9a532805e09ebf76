from __future__ import annotations

from collections.abc import Iterator

import pytest

import parrot as P
from tests.parrot.scripted_server import ScriptedServer, scripted_server


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def session(server: ScriptedServer) -> Iterator[P.Session]:
    with P.Session(server.url) as session:
        yield session

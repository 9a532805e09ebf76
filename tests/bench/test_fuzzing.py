"""The fuzz campaign asks for all that there is: every published operation, with its bodies and its query."""

from __future__ import annotations

import re

import pytest

from bench.fuzzing.endpoints import ENDPOINTS, Endpoint
from server.http.operations import ALL, Operation


def asked(operation: Operation) -> list[Endpoint]:
    """The campaign's rows for one operation; a part of a path that is a name may be any."""
    pattern = re.compile(re.sub(r"\{\w+\}", "[^/]+", operation.path))
    return [each for each in ENDPOINTS if each.method == operation.method and pattern.fullmatch(each.path)]


@pytest.mark.parametrize("operation", ALL, ids=lambda each: f"{each.method} {each.path}")
def test_the_campaign_asks_for_every_operation_with_all_of_its_types_and_queries(
    operation: Operation,
) -> None:
    rows = asked(operation)
    assert rows
    assert {*operation.takes} <= {each.type for each in rows}
    assert {query.name for query in operation.query} == {name for each in rows for name in each.query}

"""No field of a request may hurt the server: every value gets 200 or 4xx, and the next client is served."""

from __future__ import annotations

import msgspec
import pytest

from bench.workloads import fuzz
from compat.openai.chat import ChatRequest
from compat.openai.completions import CompletionRequest
from tests.e2e.plain import post

VALUES: tuple[object, ...] = (
    -1,
    0,
    2,
    2**31,
    2**63,
    -(2**70),
    1e-300,
    1e300,
    True,
    "",
    "x",
    "\x00\U0001f99c",
    [],
    [0],
    [-1],
    [2**40],
    [None],
    ["x"] * 300,
    [[]],
    [[1], "x"],
    {},
    {"0": 1e300},
    {"-1": 1},
    {"x": {"y": []}},
    {"99999999999999999999": 0},
)
BASES: dict[str, tuple[type[msgspec.Struct], dict[str, object]]] = {
    "completions": (CompletionRequest, {"prompt": "Once"}),
    "chat/completions": (ChatRequest, {"messages": [{"role": "user", "content": "Hi"}]}),
}


@pytest.mark.parametrize("endpoint", BASES)
def test_any_value_of_any_field_is_answered_and_then_a_canary(sim_url: str, endpoint: str) -> None:
    type_, base = BASES[endpoint]
    url = f"{sim_url}/v1/{endpoint}"
    for field in type_.__struct_fields__:
        for value in VALUES:
            answer = post(url, {**base, "max_tokens": 2, field: value})
            assert answer.status in (200, *range(400, 500)), (field, value, answer.body)
            if answer.status != 200:
                assert answer.json()["error"]["message"], (field, value)
        canary = post(url, {**base, "max_tokens": 2})
        assert canary.status == 200, (field, canary.body)


@pytest.mark.parametrize(
    "path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/v1/requests/x/cancel"]
)
@pytest.mark.parametrize(
    "body", [b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b"{" * 5000, b"[" * 200_000]
)
def test_bodies_that_are_no_requests_are_4xx(sim_url: str, path: str, body: bytes) -> None:
    assert post(sim_url + path, body).status in range(400, 500)


def test_a_slice_of_the_campaign_finds_nothing() -> None:
    """`python -m bench fuzz` sends 20,000 of these: all endpoints, framings, headers and paths."""
    campaign = fuzz.campaign(fuzz.SIM, seed=7, first=0, count=600)
    assert not campaign.found, "\n".join(campaign.found)
    assert campaign.statuses[200] > 100

"""Frames survive any cut of the stream, and what is no frame is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import EngineConfig
from engine.ipc import (
    FrameBuffer,
    FrameEncoder,
    FrameError,
    decode_config,
    decode_from_engine,
    decode_to_engine,
    frame_length,
)
from engine.types import (
    Abort,
    Failed,
    FromEngine,
    Generate,
    Hint,
    Loading,
    Objective,
    Ready,
    Reprioritise,
    Salt,
    SamplingParams,
    Shutdown,
    StepReport,
    ToEngine,
    TokenDelta,
    TokenLogprobs,
    TopLogprob,
    Urgency,
    Warm,
)

TO_ENGINE: list[ToEngine] = [
    Generate(
        1,
        (1, 2, 3),
        SamplingParams(max_tokens=3, seed=2**63, logit_bias={7: 1.5}, stop_token_ids=(4,)),
        Objective(Urgency.THROUGHPUT, 40.0),
        key=(1, 2),
        salts=(Salt(0, b"\x00"), Salt(2, b"t")),
        boundaries=(2,),
    ),
    Warm(2, (1,), ttl_s=1.0),
    Reprioritise(1, Objective(), (0,)),
    Hint((1, 2), next_use=3),
    Abort(1),
    Shutdown(),
]
FROM_ENGINE: list[FromEngine] = [
    Loading("weights", 0.5),
    Ready(64, 10, 640, 8, 512, 4096, "cpu", "bfloat16", 1 << 20),
    StepReport(
        1,
        2.5,
        (
            TokenDelta(1, (5,), logprobs=(TokenLogprobs(-0.1, (TopLogprob(5, -0.1),)),)),
            TokenDelta(2, finish_reason="error", error="no"),
        ),
    ),
    Failed("out of memory"),
]


@given(st.integers(1, 40))
def test_messages_come_through_whatever_the_pieces(piece: int) -> None:
    encoder = FrameEncoder()
    stream = b"".join(encoder.encode(message) for message in TO_ENGINE)
    buffer = FrameBuffer()
    received: list[ToEngine] = []
    for at in range(0, len(stream), piece):
        received.extend(decode_to_engine(payload) for payload in buffer.feed(stream[at : at + piece]))
    assert received == TO_ENGINE


def test_both_directions_and_the_configuration_come_through() -> None:
    encoder, buffer = FrameEncoder(), FrameBuffer()
    for message in FROM_ENGINE:
        (payload,) = buffer.feed(encoder.encode(message))
        assert decode_from_engine(payload) == message
    config = EngineConfig(kind="sim", disabled=frozenset({"prefix-cache"}), cpu_cores=(0, 1))
    (payload,) = buffer.feed(encoder.encode(config))
    assert decode_config(payload) == config


def test_a_length_that_is_garbage_is_refused() -> None:
    with pytest.raises(FrameError, match="bytes"):
        FrameBuffer().feed(b"GET / HTTP/1.1\r\n")
    with pytest.raises(FrameError, match="4294967295"):
        frame_length(b"\xff\xff\xff\xff")


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x80", b"\x81\xa4type\xa5Pizza", b"\x93\x01\x02\x03"])
def test_a_payload_that_is_no_message_is_refused(payload: bytes) -> None:
    for decode in (decode_to_engine, decode_from_engine):
        with pytest.raises(FrameError):
            decode(memoryview(payload))

"""Frames between the server and an engine: four bytes of length (little-endian), then msgpack.

Responsible for: encoding and decoding both directions. Raises FrameError for bytes that are not a frame of
the expected type: both ends are ours, so that is a bug or a foreign process, and ends the connection. Leaves
to others: sockets, order, meaning.
"""

from __future__ import annotations

import msgspec

from engine.config import EngineConfig
from engine.types import FromEngine, ToEngine

HEADER = 4

MAX_FRAME = 2**28
"""Bytes. A prompt of a million ids is 5 MB; more than this is garbage, not a length."""


class FrameError(Exception):
    """The other end sent something that is not a frame."""


class FrameBuffer:
    """Cuts a stream of bytes into frames. Owns the bytes of the incomplete last one."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[memoryview]:
        """The payloads that are complete now; they are views, valid as long as somebody keeps them."""
        data = self._rest + data if self._rest else data
        view, at, payloads = memoryview(data), 0, []
        while len(data) - at >= HEADER:
            end = at + HEADER + frame_length(data[at : at + HEADER])
            if end > len(data):
                break
            payloads.append(view[at + HEADER : end])
            at = end
        self._rest = data[at:]
        return payloads


def frame_length(header: bytes) -> int:
    length = int.from_bytes(header, "little")
    if length > MAX_FRAME:
        raise FrameError(f"a frame of {length} bytes")
    return length


class FrameEncoder:
    """Messages of one direction to frames. Owns a buffer, which grows to the largest frame."""

    __slots__ = ("_buffer", "_encoder")

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._buffer = bytearray(4096)

    def encode(self, message: ToEngine | FromEngine | EngineConfig) -> bytes:
        """One frame. Raises FrameError if it would be refused at the other end."""
        self._encoder.encode_into(message, self._buffer, HEADER)
        length = len(self._buffer) - HEADER
        if length > MAX_FRAME:
            raise FrameError(f"a frame of {length} bytes")
        self._buffer[:HEADER] = length.to_bytes(HEADER, "little")
        return bytes(self._buffer)


_TO_ENGINE: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
_FROM_ENGINE: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)
_CONFIG = msgspec.msgpack.Decoder(EngineConfig)


def decode_to_engine(payload: memoryview) -> ToEngine:
    try:
        return _TO_ENGINE.decode(payload)
    except msgspec.DecodeError as error:
        raise FrameError(str(error)) from None


def decode_from_engine(payload: memoryview) -> FromEngine:
    try:
        return _FROM_ENGINE.decode(payload)
    except msgspec.DecodeError as error:
        raise FrameError(str(error)) from None


def decode_config(payload: memoryview) -> EngineConfig:
    try:
        return _CONFIG.decode(payload)
    except msgspec.DecodeError as error:
        raise FrameError(str(error)) from None

"""A call's `messages` as a template: the model's chat template around them, placeholders kept as boundaries.

Responsible for: finding out where the placeholders end up. The chat template sees a sentinel in the place of
each, so that it cannot look into values, and values are never parsed; afterwards each sentinel must be there
exactly once and in order. No generation prompt is added: an output stands in a message, usually the
assistant's, and what the template writes after it is the text that the next run goes on with.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from parrot import wire
from server.chat_template import ChatMessage
from server.errors import ApiError, BadRequest
from server.graph.template import MAX_SEGMENTS, Constant, Input, Output, Segment, check_count, parse

RenderChat = Callable[[Sequence[ChatMessage]], str]
"""The model's chat template, without a generation prompt. Raises ApiError."""

ROLES = ("system", "developer", "user", "assistant")
_PIECES = "\n"  # between the text parts of one message, as in the OpenAI API


@dataclass(frozen=True, slots=True)
class Template:
    """`followed`: the outputs after which their author wrote something, so that they should have a stop."""

    segments: tuple[Segment, ...]
    followed: frozenset[str]
    chat: bool = False


def from_prompt(prompt: str, *, param: str = "prompt", max_segments: int = MAX_SEGMENTS) -> Template:
    """Raises BadRequest that names `param`."""
    segments = parse(prompt, param=param, max_segments=max_segments)
    return Template(segments, _followed(segments))


def from_messages(
    messages: Sequence[wire.Message],
    render_chat: RenderChat,
    *,
    param: str = "messages",
    max_segments: int = MAX_SEGMENTS,
) -> Template:
    """Raises BadRequest that names `param`, or the member of it that is wrong."""
    if not messages:
        raise BadRequest("messages must not be empty.", param=param)
    contents = [_content(message, f"{param}[{index}]") for index, message in enumerate(messages)]
    parsed = [
        parse(content, param=f"{param}[{index}].content", max_segments=max_segments)
        for index, content in enumerate(contents)
    ]
    check_count(sum(map(len, parsed)), max_segments, param)
    marks = _Marks(contents)
    chat = [
        ChatMessage(message.role, marks.put(segments), message.name)
        for message, segments in zip(messages, parsed, strict=True)
    ]
    try:
        text = render_chat(chat)
    except ApiError as error:
        raise BadRequest(error.info.message, param=param, code=error.info.code) from error
    segments = marks.take(text, param)
    check_count(len(segments), max_segments, param)
    return Template(segments, frozenset().union(*map(_followed, parsed)), chat=True)


def _content(message: wire.Message, at: str) -> str:
    if message.role not in ROLES:
        raise BadRequest(f"The role must be one of {', '.join(ROLES)}.", param=f"{at}.role")
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    for index, part in enumerate(message.content):
        if part.type != "text" or part.text is None:
            raise BadRequest("Only text parts are supported.", param=f"{at}.content[{index}]")
    return _PIECES.join(part.text or "" for part in message.content)


def _followed(segments: Sequence[Segment]) -> frozenset[str]:
    return frozenset(segment.name for segment in segments[:-1] if isinstance(segment, Output))


class _Marks:
    """Sentinels for the placeholders of one conversation. Owns the list of what they stand for.

    A sentinel carries a hash of the whole conversation, so that no text in it can contain one; it has
    letters and digits only, so that a template that escapes or trims leaves it alone.
    """

    def __init__(self, contents: Sequence[str]) -> None:
        digest = blake2b(digest_size=12)
        for content in contents:
            digest.update(content.encode("utf-8", "surrogatepass") + b"\0")
        self._nonce = digest.hexdigest()
        self._placeholders: list[Input | Output] = []

    def put(self, segments: Sequence[Segment]) -> str:
        return "".join(
            segment.text if isinstance(segment, Constant) else self._put(segment) for segment in segments
        )

    def take(self, text: str, param: str) -> tuple[Segment, ...]:
        """The rendered text with the placeholders back in it."""
        pieces = re.split(rf"P{self._nonce}N(\d+)E", text)
        order = list(map(int, pieces[1::2]))
        if order != list(range(len(self._placeholders))):
            seen = Counter(order)
            wrong = next((index for index in range(len(self._placeholders)) if seen[index] != 1), order[0])
            name = self._placeholders[wrong].name
            raise BadRequest(
                f"The model's chat template does not keep every placeholder once and in order ({name!r}).",
                param=param,
                code="invalid_template",
            )
        segments: list[Segment] = []
        for index, piece in enumerate(pieces):
            if index % 2:
                segments.append(self._placeholders[int(piece)])
            elif piece:
                segments.append(Constant(piece))
        return tuple(segments)

    def _put(self, placeholder: Input | Output) -> str:
        self._placeholders.append(placeholder)
        return f"P{self._nonce}N{len(self._placeholders) - 1}E"

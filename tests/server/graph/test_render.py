"""Messages as templates."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from parrot.wire import ContentPart, Message
from server.chat_template import ChatMessage
from server.errors import BadRequest
from server.graph.render import from_messages, from_prompt
from server.graph.template import Constant, Input, Output


def chat(messages: Sequence[ChatMessage]) -> str:
    return "<s>" + "".join(f"<{message.role}>{message.content.strip()}</>" for message in messages)


TALK = [
    Message(role="system", content="You are {{input:role}}."),
    Message(
        role="user",
        content=[ContentPart(type="text", text="Hi"), ContentPart(type="text", text="{{input:q}} ")],
    ),
    Message(role="assistant", content="{{output:a}}"),
    Message(role="user", content=None),
    Message(role="assistant", content="So: {{output:b}}!"),
]


def test_placeholders_keep_their_places_in_the_rendered_conversation() -> None:
    template = from_messages(TALK, chat)
    assert template.chat
    assert template.segments == (
        Constant("<s><system>You are "),
        Input("role"),
        Constant(".</><user>Hi\n"),
        Input("q"),
        Constant("</><assistant>"),
        Output("a"),
        Constant("</><user></><assistant>So: "),
        Output("b"),
        Constant("!</>"),
    )


def test_only_text_of_the_author_counts_as_following_an_output() -> None:
    assert from_messages(TALK, chat).followed == {"b"}
    assert from_prompt("{{output:a}} and {{output:b}}").followed == {"a"}


def test_content_without_placeholders_is_never_parsed_twice() -> None:
    literal = "{{x}} <0:1>"
    segments = from_messages([Message(role="user", content=literal + "{{output:a}}")], chat).segments
    assert segments == (Constant(f"<s><user>{literal}"), Output("a"), Constant("</>"))


def test_a_template_that_drops_a_placeholder_is_refused() -> None:
    def without_system(messages: Sequence[ChatMessage]) -> str:
        return chat([message for message in messages if message.role != "system"])

    with pytest.raises(BadRequest, match=r"once and in order \('role'\)") as error:
        from_messages(TALK, without_system, param="calls[0].messages")
    assert error.value.info.param == "calls[0].messages"


def test_a_template_that_repeats_or_reorders_placeholders_is_refused() -> None:
    with pytest.raises(BadRequest, match="once and in order"):
        from_messages(TALK, lambda messages: chat(messages) + messages[0].content)
    with pytest.raises(BadRequest, match="once and in order"):
        from_messages(TALK, lambda messages: chat(list(reversed(messages))))


def test_what_the_model_says_against_a_conversation_names_the_field() -> None:
    def strict(messages: Sequence[ChatMessage]) -> str:
        raise BadRequest("roles must alternate", param="messages", code="invalid_messages")

    with pytest.raises(BadRequest, match="alternate") as error:
        from_messages(TALK, strict, param="calls[1].messages")
    assert (error.value.info.param, error.value.info.code) == ("calls[1].messages", "invalid_messages")


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (Message(role="tool", content="x"), "messages[1].role"),
        (Message(role="user", content="{{input:}}"), "messages[1].content"),
        (Message(role="user", content=[ContentPart(type="image_url")]), "messages[1].content[0]"),
        (Message(role="user", content=[ContentPart(type="text")]), "messages[1].content[0]"),
    ],
)
def test_a_wrong_message_is_named(message: Message, param: str) -> None:
    with pytest.raises(BadRequest) as error:
        from_messages([TALK[0], message], chat)
    assert error.value.info.param == param


def test_a_conversation_has_messages_and_a_cap_on_its_segments() -> None:
    with pytest.raises(BadRequest, match="empty"):
        from_messages([], chat)
    with pytest.raises(BadRequest, match="at most 5 segments"):
        from_messages(TALK, chat, max_segments=5)

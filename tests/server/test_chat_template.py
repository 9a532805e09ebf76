from __future__ import annotations

from datetime import datetime

import pytest

from server import chat_template
from server.chat_template import ChatMessage, ChatTemplate
from server.errors import BadRequest

CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""
TALK = [
    ChatMessage("system", "Be short."),
    ChatMessage("user", "Hi <b>&</b>"),
    ChatMessage("assistant", " Well, "),
]


def render(
    source: str, messages: list[ChatMessage] | None = None, *, prompt: bool = True, go_on: bool = False
) -> str:
    template = ChatTemplate(source, {"bos_token": "<s>"})
    return template.render(messages or TALK, add_generation_prompt=prompt, continue_final_message=go_on)


def test_a_conversation_is_rendered_as_the_template_says() -> None:
    assert render(CHATML, TALK[:2]) == (
        "<|im_start|>system\nBe short.<|im_end|>\n"
        "<|im_start|>user\nHi <b>&</b><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_last_message_can_be_continued() -> None:
    text = render(CHATML, prompt=False, go_on=True)
    assert text.endswith("<|im_start|>assistant\n Well, ")


def test_continuing_and_a_generation_prompt_exclude_each_other() -> None:
    with pytest.raises(BadRequest) as caught:
        render(CHATML, go_on=True)
    assert caught.value.info.param == "continue_final_message"


def test_a_template_that_hides_the_last_message_cannot_continue_it() -> None:
    with pytest.raises(BadRequest, match="last message"):
        render("fixed", prompt=False, go_on=True)


def test_arguments_reach_the_template() -> None:
    template = ChatTemplate(CHATML, {})
    assert template.render(TALK, arguments={"enable_thinking": False}).endswith("</think>\n\n")
    assert template.render(TALK, arguments={"enable_thinking": True}).endswith("assistant\n")


def test_developer_is_system_for_a_template_that_does_not_know_it() -> None:
    source = "{{ messages[0].role }}"
    assert render(source, [ChatMessage("developer", "x")]) == "system"
    assert render(source + "{# developer #}", [ChatMessage("developer", "x")]) == "developer"


def test_what_hugging_face_templates_use_is_there() -> None:
    assert render("{{ bos_token }}{{ {'b': '<é>', 'a': 1} | tojson }}") == '<s>{"b": "<é>", "a": 1}'
    assert render("{{ strftime_now('%Y') }}") == str(datetime.now().year)
    assert render("{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}x{% endfor %}") == "x"
    assert render("{% generation %}{{ messages[0].content }}{% endgeneration %}!") == "Be short.!"
    assert render("{{ tools is none }} {{ documents is none }}") == "True True"


def test_a_template_may_refuse_the_messages() -> None:
    with pytest.raises(BadRequest, match="roles must alternate") as caught:
        render("{{ raise_exception('roles must alternate') }}")
    assert caught.value.info.param == "messages"


@pytest.mark.parametrize(
    "attack",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__.__base__ }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ 1 / 0 }}",
        "{{ messages[99].content + 1 }}",
    ],
)
def test_a_hostile_template_gets_no_further_than_an_error(attack: str) -> None:
    with pytest.raises(BadRequest):
        render(attack)


def test_output_is_capped_while_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "MAX_OUTPUT_CHARACTERS", 1000)
    with pytest.raises(BadRequest, match="too long"):
        render("{% for i in range(99999) %}{{ 'x' * 100 }}{% endfor %}")


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "empty"),
        ([ChatMessage("user", "x")] * (chat_template.MAX_MESSAGES + 1), "At most"),
        ([ChatMessage("user", "x" * (chat_template.MAX_INPUT_CHARACTERS + 1))], "characters"),
    ],
)
def test_input_is_capped(messages: list[ChatMessage], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        ChatTemplate(CHATML, {}).render(messages)


def test_a_mark_that_a_client_writes_is_text() -> None:
    text = "see <0123456789abcdef> twice"
    assert (
        render("{{ messages[-1].content }}!", [ChatMessage("user", text)], prompt=False, go_on=True) == text
    )

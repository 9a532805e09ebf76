from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Rust

from server.chat_template import ChatMessage
from server.errors import BadRequest
from server.tokenizer import Tokenizer, TokenizerError
from tests.server.tiny_tokenizers import byte_level, folder, metaspace, with_bos, word_piece

SCHEMES: dict[str, Callable[[], Rust]] = {
    "byte level": byte_level,
    "byte level with a prefix space": lambda: byte_level(add_prefix_space=True),
    "metaspace": metaspace,
    "metaspace by a normalizer": lambda: metaspace(through_normalizer=True),
}
CONFIG: dict[str, object] = {"bos_token": "<s>", "eos_token": {"content": "</s>", "special": True}}


@pytest.fixture(params=SCHEMES, scope="module")
def rust(request: pytest.FixtureRequest) -> Rust:
    return SCHEMES[request.param]()


@pytest.fixture
def tokenizer(rust: Rust, tmp_path: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder(tmp_path, rust, tokenizer_config=CONFIG))


@pytest.mark.parametrize("text", ["Hello world", " Hello", "é 你好\n\n  x", "", "a"])
def test_what_is_encoded_decodes_to_the_same_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids, skip_special_tokens=False).lstrip() == text.lstrip()


@pytest.mark.parametrize("text", ["world", " world", "things. ", "\nHello", "é", "你", "", "  two"])
def test_a_continuation_has_exactly_the_bytes_of_its_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode_continuation(text)
    assert b"".join(map(tokenizer.token_bytes, ids)).decode() == text


def test_a_continuation_has_no_bos(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder(tmp_path, with_bos(metaspace()), tokenizer_config=CONFIG))
    bos = tokenizer.encode("")[0]
    assert tokenizer.token_text(bos) == "<s>"
    assert tokenizer.encode("Hello")[0] == bos
    assert bos not in tokenizer.encode("Hello", add_special_tokens=False)
    assert bos not in tokenizer.encode_continuation("Hello")


@pytest.mark.parametrize(
    "explicit", [{}, {"add_bos_token": False}, {"add_bos_token": True, "add_eos_token": True}]
)
def test_special_tokens_are_added_as_transformers_adds_them(
    tmp_path: Path, explicit: dict[str, object]
) -> None:
    from transformers import PreTrainedTokenizerFast

    path = folder(
        tmp_path,
        with_bos(byte_level()),
        tokenizer_config={"bos_token": "<s>", "eos_token": "</s>", **explicit},
    )
    reference = PreTrainedTokenizerFast.from_pretrained(path)
    assert Tokenizer.from_folder(path).encode("Hello world") == reference("Hello world")["input_ids"]


def test_token_bytes_show_the_bytes_of_split_characters(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_continuation("𝄞")
    assert len(ids) == 4
    assert [tokenizer.token_bytes(id) for id in ids] == [bytes([byte]) for byte in "𝄞".encode()]
    assert tokenizer.token_text(ids[0]) == "\ufffd"


def test_ids_outside_of_the_vocabulary_have_no_bytes(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_bytes(id) for id in (tokenizer.vocab_size, 2**40, -1)] == [b"", b"", b""]


def test_no_token_covers_more_than_the_longest(tokenizer: Tokenizer) -> None:
    longest = max(len(tokenizer.token_text(id)) for id in range(tokenizer.vocab_size))
    assert longest <= tokenizer.longest_token


def test_other_schemes_work_through_the_library(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder(tmp_path, word_piece()))
    assert not tokenizer.vocabulary.exact
    assert tokenizer.decode(tokenizer.encode("Hello world")) == "Hello world"


def test_truncation_in_the_file_is_not_obeyed(tmp_path: Path) -> None:
    rust = byte_level()
    rust.enable_truncation(4)
    rust.enable_padding(length=64)
    tokenizer = Tokenizer.from_folder(folder(tmp_path, rust))
    assert tokenizer.decode(tokenizer.encode("Hello world " * 9)) == "Hello world " * 9


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        ({"generation_config": {"eos_token_id": [7, 8]}, "config": {"eos_token_id": 9}}, (7, 8)),
        ({"generation_config": {"temperature": 1}, "config": {"eos_token_id": 9}}, (9,)),
        ({"tokenizer_config": CONFIG}, (1,)),
        ({}, ()),
    ],
)
def test_eos_ids_come_from_the_first_file_that_names_them(
    tmp_path: Path, files: dict[str, dict[str, object]], ids: tuple[int, ...]
) -> None:
    assert Tokenizer.from_folder(folder(tmp_path, byte_level(), **files)).eos_token_ids == ids


def test_sampling_defaults_come_from_the_generation_config(tmp_path: Path) -> None:
    path = folder(
        tmp_path, byte_level(), generation_config={"temperature": 0.6, "top_k": 20, "do_sample": True}
    )
    defaults = Tokenizer.from_folder(path).generation_defaults
    assert (defaults.temperature, defaults.top_k, defaults.top_p) == (0.6, 20, None)


def test_a_folder_without_tokenizer_needs_a_converted_one(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    converted = Tokenizer.from_folder(tmp_path, byte_level().to_str().encode())
    assert converted.decode(converted.encode("Hello")) == "Hello"


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path, byte_level())
    (path / "generation_config.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"generation_config\.json"):
        Tokenizer.from_folder(path)


# The template's sources; what templates can do is tested in test_chat_template.py.

HELLO = [ChatMessage("user", "hi")]


def test_without_a_template_chat_is_a_bad_request(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder(tmp_path, byte_level()))
    assert not tokenizer.has_chat_template
    with pytest.raises(BadRequest, match="no chat template"):
        tokenizer.render_chat(HELLO)


@pytest.mark.parametrize(
    "template",
    [
        "{{ bos_token }}config",
        [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "{{ bos_token }}config"}],
    ],
)
def test_the_template_of_the_configuration_is_used(tmp_path: Path, template: object) -> None:
    path = folder(tmp_path, byte_level(), tokenizer_config=CONFIG | {"chat_template": template})
    assert Tokenizer.from_folder(path).render_chat(HELLO) == "<s>config"
    (path / "chat_template.jinja").write_text("file {{ eos_token }}")
    assert Tokenizer.from_folder(path).render_chat(HELLO) == "file </s>"


def test_a_template_that_does_not_parse_is_no_template(tmp_path: Path) -> None:
    path = folder(tmp_path, byte_level(), tokenizer_config={"chat_template": "{% if %}"})
    assert not Tokenizer.from_folder(path).has_chat_template

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Rust
from tokenizers import decoders

from server.detokenizer import StopMatcher, TextStream
from server.tokenizer import Tokenizer
from tests.server.tiny_tokenizers import SPECIALS, byte_level, folder, metaspace, word_piece

SCHEMES: dict[str, Callable[[], Rust]] = {
    "byte level": byte_level,
    "metaspace": metaspace,
    "word piece": word_piece,
    "unknown": lambda: byte_level(decoder=decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()])),
}
EXACT = ("byte level", "metaspace")
TEXT = st.text(alphabet="abHello wrd\n.é你𝄞", max_size=40)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    root: Path = tmp_path_factory.mktemp("models")
    return {name: Tokenizer.from_folder(folder(root / name, make())) for name, make in SCHEMES.items()}


def streamed(tokenizer: Tokenizer, ids: list[int], size: int = 1, *stop: str, include: bool = False) -> str:
    stream = TextStream(tokenizer, stop, include)
    parts = [stream.push(ids[start : start + size]) for start in range(0, len(ids), size)]
    return "".join([*parts, stream.flush()])


@pytest.mark.parametrize("name", EXACT)
@given(text=TEXT, size=st.integers(1, 5))
def test_tokens_one_by_one_give_the_whole_text(
    tokenizers: dict[str, Tokenizer], name: str, text: str, size: int
) -> None:
    tokenizer = tokenizers[name]
    assert streamed(tokenizer, tokenizer.encode_continuation(text), size) == text


@given(ids=st.lists(st.integers(0, 400), max_size=30), size=st.integers(1, 5))
def test_any_byte_level_tokens_give_what_decoding_them_at_once_gives(
    tokenizers: dict[str, Tokenizer], ids: list[int], size: int
) -> None:
    tokenizer = tokenizers["byte level"]
    assert streamed(tokenizer, ids, size) == tokenizer.decode(ids)


@given(text=st.text(alphabet="Helo wrdthings.", max_size=40))
def test_other_schemes_are_decoded_by_the_library(tokenizers: dict[str, Tokenizer], text: str) -> None:
    tokenizer = tokenizers["word piece"]
    ids = tokenizer.encode(text)
    assert streamed(tokenizer, ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", [*EXACT, "unknown"])
def test_half_a_character_is_never_shown(tokenizers: dict[str, Tokenizer], name: str) -> None:
    tokenizer = tokenizers[name]
    stream = TextStream(tokenizer)
    ids = tokenizer.encode_continuation("a𝄞b")
    assert [stream.push([id]) for id in ids] == ["a", "", "", "", "𝄞", "b"]


@pytest.mark.parametrize("name", [*EXACT, "unknown"])
def test_half_a_character_at_the_end_is_marked(tokenizers: dict[str, Tokenizer], name: str) -> None:
    tokenizer = tokenizers[name]
    stream = TextStream(tokenizer)
    assert stream.push(tokenizer.encode_continuation("𝄞")[:3]) == ""
    assert stream.flush() == "\ufffd"


@pytest.mark.parametrize("name", [*EXACT, "unknown"])
def test_nothing_is_held_back_without_bound(tokenizers: dict[str, Tokenizer], name: str) -> None:
    tokenizer = tokenizers[name]
    byte = "<0xF0>" if name == "metaspace" else "ð"
    id = next(id for id in range(tokenizer.vocab_size) if tokenizer._rust.id_to_token(id) == byte)
    stream = TextStream(tokenizer)
    assert sum(len(stream.push([id])) for _ in range(64)) > 30


def test_special_tokens_are_skipped_unless_wanted(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["byte level"]
    ids = tokenizer.encode("Hello<|user|> world")
    assert streamed(tokenizer, ids) == "Hello world"
    stream = TextStream(tokenizer, skip_special=False)
    assert stream.push(ids) == f"Hello{SPECIALS[2]} world"


@pytest.mark.parametrize("include", [False, True])
@given(
    text=TEXT, size=st.integers(1, 4), stop=st.lists(st.text("abHelo .é", min_size=1, max_size=4), max_size=3)
)
@settings(max_examples=200)
def test_text_ends_at_the_stop_string_that_ends_first(
    tokenizers: dict[str, Tokenizer], include: bool, text: str, size: int, stop: list[str]
) -> None:
    tokenizer = tokenizers["byte level"]
    ids = tokenizer.encode_continuation(text)
    ends = [(text.index(s) + len(s), -len(s)) for s in stop if s in text]
    end, length = min(ends, default=(len(text), 0))
    expected = text[: end if include else end + length]
    assert streamed(tokenizer, ids, size, *stop, include=include) == expected


def test_a_part_of_a_stop_string_is_held_until_it_is_none(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["byte level"]
    ids = {text: tokenizer.encode_continuation(text) for text in ("a", "b", "c", "x")}
    stream = TextStream(tokenizer, ("abc",))
    assert [stream.push(ids[text]) for text in "xabxab"] == ["x", "", "", "abx", "", ""]
    assert [stream.push(ids[text]) for text in "cx"] == ["", ""]
    assert stream.stopped == "abc"
    assert stream.flush() == ""


def test_what_only_began_like_a_stop_string_is_shown_at_the_end(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["byte level"]
    stream = TextStream(tokenizer, ("abc",))
    assert stream.push(tokenizer.encode_continuation("ab")) == ""
    assert stream.flush() == "ab"


def test_stop_strings_are_not_looked_for_in_the_first_min_tokens(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["byte level"]
    ids = [tokenizer.encode_continuation(text)[0] for text in "a.b.c"]
    stream = TextStream(tokenizer, (".",), min_tokens=2)
    assert stream.push(ids) == "a.b"
    assert stream.stopped == "."


@given(
    stop=st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=4),
    text=st.text("ab", max_size=30),
)
def test_the_matcher_agrees_with_searching_the_whole_text(stop: list[str], text: str) -> None:
    matcher = StopMatcher(stop)
    for end in range(1, len(text) + 1):
        found = matcher.feed(text[end - 1])
        here = [s for s in stop if text[:end].endswith(s)]
        if here:
            assert found == (max(here, key=len), 0)
            return
        assert found is None
        reach = max(
            (n for n in range(end + 1) if any(s.startswith(text[end - n : end]) for s in stop)), default=0
        )
        assert matcher.reach == reach

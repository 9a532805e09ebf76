"""Canonical ids with real tokenizers: a call's ids depend on its text alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.graph.prefix import Context, Fill, Kept, canonical, prefix_hashes, settled
from server.tokenizer import Tokenizer
from tests.server import tiny_tokenizers

SCHEMES: dict[str, Callable[[], object]] = {
    "byte level": tiny_tokenizers.byte_level,
    "byte level with bos": lambda: tiny_tokenizers.with_bos(tiny_tokenizers.byte_level()),
    "metaspace with bos": lambda: tiny_tokenizers.with_bos(tiny_tokenizers.metaspace()),
    "word piece": tiny_tokenizers.word_piece,
}
EXACT = [name for name in SCHEMES if name != "word piece"]
TEXT = st.text(alphabet="Helo wrd,.é你\n<|user|>", max_size=12)
FILLS = st.lists(st.builds(Fill, TEXT, st.booleans()), max_size=5)


@cache
def tokenizer(scheme: str) -> Tokenizer:
    with TemporaryDirectory() as folder:
        made = tiny_tokenizers.looking_ahead() if scheme == "looking ahead" else SCHEMES[scheme]()
        return Tokenizer.from_folder(tiny_tokenizers.folder(Path(folder), made))  # type: ignore[arg-type]


@pytest.mark.parametrize("scheme", SCHEMES)
@settings(deadline=None, max_examples=60)
@given(fills=FILLS, chat=st.booleans())
def test_the_ids_of_one_output_are_those_of_its_rendered_text(
    scheme: str, fills: list[Fill], chat: bool
) -> None:
    codec = tokenizer(scheme)
    rendered = "".join(fill.text for fill in fills)
    context = canonical(fills, codec, chat=chat)
    assert list(context.token_ids) == codec.encode(rendered, add_special_tokens=not chat)


@pytest.mark.parametrize("scheme", SCHEMES)
@settings(deadline=None, max_examples=60)
@given(before=FILLS, after=FILLS, text=TEXT)
def test_an_output_keeps_its_ids_and_the_text_after_it_continues(
    scheme: str, before: list[Fill], after: list[Fill], text: str
) -> None:
    codec = tokenizer(scheme)
    output = Kept(tuple(codec.encode_continuation(text)), text)
    context = canonical([*before, output, *after], codec, chat=False)
    head = codec.encode("".join(fill.text for fill in before))
    tail = codec.encode_continuation("".join(fill.text for fill in after))
    assert list(context.token_ids) == [*head, *output.token_ids, *tail]
    if output.token_ids:
        assert len(head) + len(output.token_ids) in context.boundaries


@pytest.mark.parametrize("scheme", EXACT)
@settings(deadline=None, max_examples=80)
@given(data=st.data(), text=TEXT)
def test_an_output_that_was_cut_keeps_the_ids_that_fit_its_text(
    scheme: str, data: st.DataObject, text: str
) -> None:
    codec = tokenizer(scheme)
    ids = codec.encode_continuation(text)
    whole = b"".join(map(codec.token_bytes, ids)).decode()
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    context = canonical([Kept(tuple(ids), cut, truncated=True), Fill("!")], codec, chat=True)
    starts = [b"".join(map(codec.token_bytes, ids[:count])) for count in range(len(ids) + 1)]
    fitting = [n for n, start in enumerate(starts) if _is_start(start, cut)]
    kept, rest = max(fitting), cut[len(starts[max(fitting)].decode()) :]
    assert list(context.token_ids) == [*ids[:kept], *codec.encode_continuation(rest + "!")]


def _is_start(data: bytes, text: str) -> bool:
    try:
        return text.startswith(data.decode())
    except UnicodeDecodeError:
        return False


@settings(deadline=None, max_examples=80)
@given(data=st.data(), text=TEXT)
def test_a_cut_output_of_any_vocabulary_keeps_ids_of_its_text(data: st.DataObject, text: str) -> None:
    codec = tokenizer("word piece")
    ids = codec.encode_continuation(text)
    whole = codec.decode(ids)
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    context = canonical([Kept(tuple(ids), cut, truncated=True), Fill("!")], codec, chat=True)
    starts = [codec.decode(ids[:count]) for count in range(len(ids) + 1)]
    possible = [
        [*ids[:n], *codec.encode_continuation(cut[len(start) :] + "!")]
        for n, start in enumerate(starts)
        if cut.startswith(start)
    ]
    assert list(context.token_ids) in possible


@pytest.mark.parametrize("scheme", EXACT)
@settings(deadline=None, max_examples=60)
@given(fills=FILLS)
def test_boundaries_are_where_texts_end(scheme: str, fills: list[Fill]) -> None:
    codec = tokenizer(scheme)
    context = canonical(fills, codec, chat=False)
    assert list(context.boundaries) == sorted(set(context.boundaries))
    assert not context.token_ids or not fills or context.boundaries[-1] == len(context.token_ids)
    everything = len(b"".join(map(codec.token_bytes, context.token_ids)))
    size = 0
    texts = [fill.text for fill in fills]
    surplus = everything - len("".join(texts).encode())
    for text in texts:
        size += len(text.encode())
        fitting = [n for n in range(len(context.token_ids) + 1) if _size(codec, context, n) <= size + surplus]
        assert not max(fitting) or max(fitting) in context.boundaries


def _size(codec: Tokenizer, context: Context, count: int) -> int:
    return sum(len(codec.token_bytes(id)) for id in context.token_ids[:count])


@pytest.mark.parametrize("scheme", SCHEMES)
@settings(deadline=None, max_examples=60)
@given(constant=TEXT, first=TEXT, second=TEXT)
def test_what_is_public_depends_on_the_leading_constant_alone(
    scheme: str, constant: str, first: str, second: str
) -> None:
    codec = tokenizer(scheme)
    alone = codec.encode(constant)
    for value in (first, second):
        context = canonical([Fill(constant), Fill(value, True)], codec, chat=False, public=True)
        assert list(context.token_ids[: context.leading]) == alone[: context.leading]
    assert canonical([Fill(constant, True), Fill(first)], codec, chat=False, public=True).leading == 0
    assert canonical([Fill(constant), Fill(first)], codec, chat=False).leading == 0
    assert canonical([], codec, chat=True, public=True) == Context((), ())


def test_hashes_tell_prefixes_and_salts_apart() -> None:
    one = Context((1, 2, 3, 4), (2, 4))
    other = Context((1, 2, 9, 4), (2, 4))
    assert prefix_hashes(one, b"salt")[0] == prefix_hashes(other, b"salt")[0]
    assert prefix_hashes(one, b"salt")[1] != prefix_hashes(other, b"salt")[1]
    assert not set(prefix_hashes(one, b"salt")) & set(prefix_hashes(one, b"pepper"))
    assert prefix_hashes(Context((1, 2, 3, 4), (4,)), b"salt")[0] == prefix_hashes(one, b"salt")[1]


@pytest.mark.parametrize("scheme", SCHEMES)
@settings(deadline=None, max_examples=150)
@given(fills=FILLS, more=FILLS, text=TEXT, cut=st.integers(0, 12), chat=st.booleans(), output=st.booleans())
def test_what_is_settled_of_a_context_stays_whatever_comes_after_it(
    scheme: str, fills: list[Fill], more: list[Fill], text: str, cut: int, chat: bool, output: bool
) -> None:
    """`fills` and the beginning of a value are known, behind an output or at the start."""
    codec = tokenizer(scheme)
    before: list[Fill | Kept] = (
        [Fill("Hello"), Kept(tuple(codec.encode_continuation(text)), text)] if output else []
    )
    known = settled([*before, *fills, Fill(text[:cut])], codec, chat=chat)
    full = canonical([*before, *fills, Fill(text), *more], codec, chat=chat)
    assert full.token_ids[: len(known)] == known


@settings(deadline=None, max_examples=400)
@given(st.text(alphabet="it's 'll\nre12 \t(é", max_size=24), st.integers(0, 24))
def test_rules_that_look_ahead_settle_late(text: str, cut: int) -> None:
    codec = tokenizer("looking ahead")
    known = codec.encode_settled(text[:cut])
    assert codec.encode(text)[: len(known)] == known


def test_all_of_a_text_is_settled_but_its_last_words() -> None:
    codec = tokenizer("byte level")
    text = "Hello world, this is a small text about things. " * 20
    assert len(codec.encode(text)) - len(codec.encode_settled(text)) < 6
    assert codec.encode_settled("Hello") == codec.encode_settled("") == []

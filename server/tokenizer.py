"""A model's tokenizer, as its folder describes it.

Responsible for: text to ids and back, the special tokens and sampling defaults that the folder's small JSON
files name, and the chat template. Immutable once loaded; `encode` may run on any thread. Streaming text out
of tokens is `server.detokenizer`'s.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import TemplateSyntaxError
from tokenizers import Tokenizer as Rust
from tokenizers import decoders

from server.chat_template import ChatMessage, ChatTemplate
from server.errors import BadRequest
from server.vocabulary import Vocabulary

log = logging.getLogger(__name__)

LOOKAHEAD = 4
"""Characters: the rules of pre-tokenizers that look ahead look for endings like 're or 'll."""

LONG_TEXT = 2_000
"""Characters from which a text is worth encoding on a thread; the library releases the GIL."""


class GenerationDefaults(msgspec.Struct, frozen=True):
    """What `generation_config.json` says about sampling; None where it says nothing."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


class _AddedToken(msgspec.Struct, frozen=True):
    content: str


class _NamedTemplate(msgspec.Struct, frozen=True):
    name: str
    template: str


_Special = str | _AddedToken | None


class _TokenizerConfig(msgspec.Struct, frozen=True):
    bos_token: _Special = None
    eos_token: _Special = None
    unk_token: _Special = None
    pad_token: _Special = None
    chat_template: str | list[_NamedTemplate] | None = None

    def special_tokens(self) -> dict[str, str]:
        found = {name: getattr(self, name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
        return {
            name: token.content if isinstance(token, _AddedToken) else token
            for name, token in found.items()
            if token is not None
        }


class _ModelConfig(msgspec.Struct, frozen=True):
    """The part of `generation_config.json` and of `config.json` that says where an output ends."""

    eos_token_id: int | list[int] | None = None

    def ids(self) -> tuple[int, ...]:
        if self.eos_token_id is None:
            return ()
        return tuple(self.eos_token_id) if isinstance(self.eos_token_id, list) else (self.eos_token_id,)


class TokenizerError(Exception):
    """The folder has no tokenizer that can be used; the message says what is missing."""


class _Beginnings:
    """The proper beginnings of some words."""

    def __init__(self, words: Iterable[str]) -> None:
        self._beginnings = {word[:length] for word in words for length in range(1, len(word))}
        self._longest = max(map(len, self._beginnings), default=0)

    def beginning_at_end_of(self, text: str) -> int:
        """How long the longest one is that `text` ends with."""
        lengths = range(min(self._longest, len(text)), 0, -1)
        return next((length for length in lengths if text[-length:] in self._beginnings), 0)


class Tokenizer:
    """Text to ids and back.

    Which special tokens a text gets is for `tokenizer.json`'s post-processor alone to say, as in transformers
    5: `add_bos_token` of older configurations has no part in it.
    """

    def __init__(
        self,
        rust: Rust,
        *,
        special_tokens: Mapping[str, str],
        eos_token_ids: tuple[int, ...],
        generation_defaults: GenerationDefaults,
        chat_template: ChatTemplate | None,
    ) -> None:
        self._rust = rust
        self._continuing = _without_dummy_prefix(rust)
        self._chat_template = chat_template
        self._specials = _Beginnings(token.content for token in rust.get_added_tokens_decoder().values())
        self.vocabulary = Vocabulary(rust)
        self.vocab_size: int = rust.get_vocab_size()
        self.longest_token = max(map(len, rust.get_vocab()), default=1)  # in characters: no token covers more
        self.eos_token_ids = eos_token_ids
        self.bos: str | None = special_tokens.get("bos_token")
        self.generation_defaults = generation_defaults

    @classmethod
    def from_folder(cls, path: Path, converted: bytes | None = None) -> Tokenizer:
        """Of a model folder; `converted` replaces a missing `tokenizer.json`. Raises TokenizerError."""
        config = _read(path / "tokenizer_config.json", _TokenizerConfig)
        special_tokens = config.special_tokens()
        rust = _load(path / "tokenizer.json", converted)
        rust.no_truncation()
        rust.no_padding()
        generation = path / "generation_config.json"
        return cls(
            rust,
            special_tokens=special_tokens,
            eos_token_ids=_read(generation, _ModelConfig).ids()
            or _read(path / "config.json", _ModelConfig).ids()
            or _ids(rust, special_tokens.get("eos_token")),
            generation_defaults=_read(generation, GenerationDefaults),
            chat_template=_chat_template(path, config, special_tokens),
        )

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of a whole text. Names of special tokens in it become those tokens."""
        return _encode(self._rust, text, add_special_tokens)

    def encode_continuation(self, text: str) -> list[int]:
        """The ids of text that continues other text: nothing is put before or after it."""
        return _encode(self._continuing, text, False)

    def encode_settled(
        self, text: str, *, continues: bool = False, add_special_tokens: bool = True
    ) -> list[int]:
        """Those leading ids of `text` that stay the same whatever text comes after it.

        A token is a function of its pre-token. The last pre-token may grow; so may one that ends just before the
        end, because a pre-tokenizer's rules look a few characters ahead; and so may all of a trailing run of white
        space, or of what may be the beginning of a special token.
        """
        end = len(text) - self._specials.beginning_at_end_of(text)
        text = text[:end].rstrip()
        rust = self._continuing if continues else self._rust
        found = rust.encode_batch([text], add_special_tokens=add_special_tokens and not continues)[0]
        words, offsets = found.word_ids, found.offsets
        last = max((word for word in words if word is not None), default=None)
        count = 0
        for index, (word, (_, stop)) in enumerate(zip(words, offsets, strict=True)):
            if word is None:
                continue  # the post-processor's; one that ends the text comes after all words
            if word == last or stop > len(text) - LOOKAHEAD:
                break
            if words[index + 1] != word:
                count = index + 1
        return list(found.ids[:count])

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        text: str = self._rust.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def decode_stream(self, skip_special_tokens: bool) -> Callable[[int], str | None]:
        """A function from the next id to the text it completes; for vocabularies that are not exact."""
        stream = decoders.DecodeStream(skip_special_tokens=skip_special_tokens)
        return lambda id: stream.step(self._rust, id)

    def token_bytes(self, id: int) -> bytes:
        return self.vocabulary.bytes[id]

    def token_text(self, id: int) -> str:
        """For display: bytes that are no whole characters become U+FFFD."""
        return self.token_bytes(id).decode(errors="replace")

    @property
    def has_chat_template(self) -> bool:
        return self._chat_template is not None

    @property
    def chat_template_source(self) -> str:
        return "" if self._chat_template is None else self._chat_template.source

    def render_chat(
        self,
        messages: Sequence[ChatMessage],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, bool | str] | None = None,
        tools: Sequence[Mapping[str, object]] | None = None,
    ) -> str:
        """The text of a conversation; encode it with `add_special_tokens=False`. Raises BadRequest."""
        if self._chat_template is None:
            raise BadRequest(
                "This model has no chat template; use completions, or a prompt.",
                param="messages",
                code="no_chat_template",
            )
        return self._chat_template.render(
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            arguments=template_kwargs,
            tools=tools,
        )


def _encode(rust: Rust, text: str, add_special_tokens: bool) -> list[int]:
    """As a batch of one: unlike `encode`, that releases the GIL, so that a thread really helps."""
    ids: list[int] = rust.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
    return ids


def _read(path: Path, type_: type[Any]) -> Any:
    """A small JSON file of the folder; one that is absent says nothing. Raises TokenizerError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=type_)
    except FileNotFoundError:
        return type_()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path}: {error}") from error


def _load(path: Path, converted: bytes | None) -> Rust:
    if not path.exists() and converted is None:
        raise TokenizerError(f"{path} does not exist, and the model has no tokenizer that could be converted")
    try:
        return Rust.from_file(str(path)) if path.exists() else Rust.from_str((converted or b"").decode())
    except Exception as error:  # the library raises plain Exception
        raise TokenizerError(f"{path}: {error}") from error


def _ids(rust: Rust, token: str | None) -> tuple[int, ...]:
    id = None if token is None else rust.token_to_id(token)
    return () if id is None else (id,)


def _chat_template(
    path: Path, config: _TokenizerConfig, special_tokens: Mapping[str, str]
) -> ChatTemplate | None:
    """`chat_template.jinja` wins over the configuration's; of several named ones it is "default"."""
    file = path / "chat_template.jinja"
    source = config.chat_template
    if file.exists():
        source = file.read_text(encoding="utf-8")
    elif isinstance(source, list):
        source = next((named.template for named in source if named.name == "default"), None)
    if source is None:
        return None
    try:
        return ChatTemplate(source, special_tokens)
    except TemplateSyntaxError as error:
        log.warning("the model's chat template cannot be used: line %s: %s", error.lineno, error.message)
        return None


def _without_dummy_prefix(rust: Rust) -> Rust:
    """The same tokenizer for text that is not at the start of a prompt.

    SentencePiece models put a space before a text, some byte-level ones too. Where a component does so, this
    is a copy of the tokenizer with that component replaced; usually there is none and it is `rust` itself.
    """
    changed = {
        name: new
        for name in ("normalizer", "pre_tokenizer")
        if (part := getattr(rust, name)) is not None
        and (new := _plain(old := json.loads(part.__getstate__()))) != old
    }
    if not changed:
        return rust
    spec = json.loads(rust.to_str())
    return Rust.from_str(json.dumps(spec | changed))


def _plain(part: dict[str, Any]) -> dict[str, Any] | None:
    """A normalizer or pre-tokenizer without its dummy prefix; None when that is all it does."""
    match part["type"]:
        case "Sequence":
            key = "normalizers" if "normalizers" in part else "pretokenizers"
            return part | {key: [new for step in part[key] if (new := _plain(step)) is not None]}
        case "Prepend":
            return None
        case "Metaspace":
            return part | {"prepend_scheme": "never"}
        case "ByteLevel":
            return part | {"add_prefix_space": False}
    return part

"""Tokens to text, one at a time, with stop strings.

Responsible for: text that may be shown at once. Never half a UTF-8 character, never a part of what may become
a stop string, and the same text however the tokens are grouped. Each token costs constant time: `tokenizers`'
DecodeStream is quadratic in a run of invalid bytes (measured: 4,000 of them take a second), which a client
can ask for with a logit bias, so it serves only vocabularies whose tokens are not plain bytes.
"""

from __future__ import annotations

from codecs import utf_8_decode
from collections import deque
from collections.abc import Iterable, Sequence

from server.tokenizer import Tokenizer

_MAX_HELD_TOKENS = 16  # a UTF-8 character has at most 4 bytes; more held tokens than this are invalid text


class TextStream:
    """The text of one output. Owns what has been held back; after a stop string nothing more comes out.

    `stopped` is the stop string that was found: of all occurrences the one that ends first, and of those that
    end together the longest, so the result does not depend on how tokens split the text. Stop strings are not
    looked for in the first `min_tokens` tokens.
    """

    __slots__ = ("_decoder", "_held", "_matcher", "_unscanned", "include_stop", "stopped")

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: tuple[str, ...] = (),
        include_stop: bool = False,
        skip_special: bool = True,
        *,
        min_tokens: int = 0,
    ) -> None:
        exact = tokenizer.vocabulary.exact
        self._decoder = (ByteDecoder if exact else LibraryDecoder)(tokenizer, skip_special)
        self._matcher = StopMatcher(stop) if any(stop) else None
        self._unscanned = min_tokens
        self._held = ""
        self.include_stop = include_stop
        self.stopped: str | None = None

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that these tokens make safe to show."""
        if self.stopped is not None:
            return ""
        if self._unscanned > 0:
            return self._push_unscanned(token_ids)
        text = self._decoder.push(token_ids)
        return text if self._matcher is None else self._scan(self._matcher, text)

    def flush(self) -> str:
        """What was held back, at the end of the output; half a character becomes U+FFFD."""
        if self.stopped is not None:
            return ""
        text = self._decoder.flush()
        if self._matcher is not None:
            text = self._scan(self._matcher, text)
        if self.stopped is None:
            text, self._held = text + self._held, ""
        return text

    def _push_unscanned(self, token_ids: Sequence[int]) -> str:
        count = min(self._unscanned, len(token_ids))
        self._unscanned -= count
        text = self._decoder.push(token_ids[:count])
        return text + self.push(token_ids[count:]) if count < len(token_ids) else text

    def _scan(self, matcher: StopMatcher, text: str) -> str:
        """The part of held + `text` that no stop string can reach any more; sets `stopped`."""
        if not text:
            return text
        found = matcher.feed(text)
        text = self._held + text
        if found is None:
            safe = len(text) - matcher.reach
            self._held = text[safe:]
            return text[:safe]
        self.stopped, unread = found
        self._held = ""
        end = len(text) - unread
        return text[: end if self.include_stop else end - len(self.stopped)]


class ByteDecoder:
    """For exact vocabularies: bytes side by side, cut at whole characters."""

    __slots__ = ("_bytes", "_rest")

    def __init__(self, tokenizer: Tokenizer, skip_special: bool) -> None:
        self._bytes = tokenizer.vocabulary.visible if skip_special else tokenizer.vocabulary.bytes
        self._rest = b""

    def push(self, token_ids: Iterable[int]) -> str:
        data = self._rest
        for id in token_ids:
            data += self._bytes[id]
        text, used = utf_8_decode(data, "replace", False)
        self._rest = data[used:]
        return text

    def flush(self) -> str:
        text, self._rest = self._rest.decode(errors="replace"), b""
        return text


class LibraryDecoder:
    """For every other vocabulary: the tokenizer's own decoder, over as many tokens as are held back."""

    __slots__ = ("_held", "_skip_special", "_stream", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer, skip_special: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._stream = tokenizer.decode_stream(skip_special)
        self._held: list[int] = []

    def push(self, token_ids: Iterable[int]) -> str:
        return "".join(map(self._step, token_ids))

    def flush(self) -> str:
        held, self._held = self._held, []
        return self._tokenizer.decode(held, skip_special_tokens=self._skip_special) if held else ""

    def _step(self, id: int) -> str:
        text = self._stream(id)
        if text:
            self._held = []
            return text
        self._held.append(id)
        if len(self._held) < _MAX_HELD_TOKENS:
            return ""
        self._stream = self._tokenizer.decode_stream(self._skip_special)
        return self.flush()


class StopMatcher:
    """Finds the first of several strings in text that comes in pieces (Aho and Corasick, 1975).

    States are the prefixes of the stop strings. `reach`: how many of the last characters may still become
    one.
    """

    __slots__ = ("_depth", "_fail", "_firsts", "_match", "_next", "_state")

    def __init__(self, stop: Iterable[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._depth = [0]
        self._match: list[str | None] = [None]
        for string in filter(None, stop):
            self._add(string)
        self._fail = [0] * len(self._next)
        self._link()
        self._firsts = frozenset(self._next[0])
        self._state = 0

    @property
    def reach(self) -> int:
        return self._depth[self._state]

    def feed(self, text: str) -> tuple[str, int] | None:
        """The stop string found and how many characters of `text` come after it, else None."""
        state = self._state
        if state == 0 and self._firsts.isdisjoint(text):
            return None
        for position, character in enumerate(text, 1):
            while (following := self._next[state].get(character)) is None and state:
                state = self._fail[state]
            state = following or 0
            if (found := self._match[state]) is not None:
                return found, len(text) - position
        self._state = state
        return None

    def _add(self, string: str) -> None:
        state = 0
        for character in string:
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self._depth.append(self._depth[state] + 1)
                self._match.append(None)
            state = self._next[state][character]
        self._match[state] = string

    def _link(self) -> None:
        """`fail` of a state: its longest proper suffix that is a state (breadth first, so known)."""
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            for character, child in self._next[state].items():
                fail = self._fail[state]
                while fail and character not in self._next[fail]:
                    fail = self._fail[fail]
                self._fail[child] = self._next[fail].get(character, 0)
                self._match[child] = self._match[child] or self._match[self._fail[child]]
                queue.append(child)

"""Which tokens an output may continue with, when it has to match a grammar (llguidance: Earley over a token trie).

Responsible for: grammars compiled once (a bounded LRU) and beside the step (on a thread, while the prompt is
computed), the state of one output in one (`Matcher`), and errors that are one output's own. A grammar has been
checked by the server. An output ends by an EOS token, which is allowed exactly where the grammar is complete.
Leaves masking to the sampler. llguidance is imported on the first use: who constrains nothing pays nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

KEPT = 64
"""Compiled grammars of one engine."""

DEADLINE_S = 5.0
"""What a step waits for a grammar at most; llguidance's own limits end far earlier."""

BoolArray = npt.NDArray[np.bool_]


class GrammarError(ValueError):
    """A grammar that cannot be used, or an output that does not match it."""


class Matcher:
    """One output's place in its grammar. Owns the state; `advance` moves it."""

    def __init__(self, state: LLMatcher, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self._state = state
        self._vocab_size = vocab_size
        self._eos = frozenset(eos_token_ids)

    def allowed(self) -> BoolArray:
        """The tokens that may come next, bool [vocab]. Raises GrammarError."""
        packed = np.frombuffer(self._state.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(packed, count=self._vocab_size, bitorder="little").view(np.bool_)

    def advance(self, token_ids: Sequence[int]) -> None:
        """Take outputs. Raises GrammarError for one that does not match; then the state is of no more use."""
        self._state.consume_tokens([token for token in token_ids if token not in self._eos])
        self._check()

    def _check(self) -> None:
        if self._state.is_error():
            raise GrammarError(f"the grammar cannot be followed: {self._state.get_error()[:500]}")


class Pending:
    """A matcher that is being made: the first `get` waits for it. `output_ids`: where it takes up again."""

    def __init__(self, compiled: Future[LLMatcher], output_ids: tuple[int, ...], wrap: _Wrap) -> None:
        self._compiled, self._output_ids, self._wrap = compiled, output_ids, wrap
        self._matcher: Matcher | None = None

    def get(self) -> Matcher:
        """Raises GrammarError."""
        if self._matcher is None:
            try:
                compiled = self._compiled.result(DEADLINE_S)
            except TimeoutError:
                raise GrammarError("the grammar took too long to compile") from None
            matcher = self._wrap(compiled.deep_copy())
            matcher.advance(self._output_ids)
            self._matcher = matcher
        return self._matcher


_Wrap = Callable[["LLMatcher"], Matcher]


class Grammars:
    """Owns the compiled grammars of an engine and their thread. `tokenizer_json` reads the tokenizer's text."""

    def __init__(self, tokenizer_json: Callable[[], str], vocab_size: int) -> None:
        self._tokenizer_json = tokenizer_json
        self._vocab_size = vocab_size
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammars")
        self._tokenizers: dict[tuple[int, ...], LLTokenizer] = {}  # the thread's
        self._compiled: OrderedDict[tuple[str, tuple[int, ...]], Future[LLMatcher]] = OrderedDict()

    def matcher(self, grammar: str, eos_token_ids: tuple[int, ...], output_ids: tuple[int, ...]) -> Pending:
        """For an output that begins, or goes on after `output_ids`. Never raises: `Pending.get` does."""
        key = grammar, eos_token_ids
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = self._compiled[key] = self._thread.submit(self._compile, grammar, eos_token_ids)
            if len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(key)
        return Pending(compiled, output_ids, lambda state: Matcher(state, self._vocab_size, eos_token_ids))

    def _compile(self, grammar: str, eos_token_ids: tuple[int, ...]) -> LLMatcher:
        """On the thread. Its result is never advanced, only copied."""
        from llguidance import LLMatcher, LLParserLimits

        state = LLMatcher(
            self._tokenizer(eos_token_ids), grammar, log_level=0, limits=LLParserLimits(verbose_errors=False)
        )
        if state.is_error():
            raise GrammarError(f"the grammar cannot be compiled: {state.get_error()[:500]}")
        state.compute_bitmask()  # the first one builds the lexer's tables, which copies share
        return state

    def _tokenizer(self, eos_token_ids: tuple[int, ...]) -> LLTokenizer:
        from llguidance import LLTokenizer

        known = self._tokenizers.get(eos_token_ids)
        if known is None:
            try:
                known = LLTokenizer(
                    self._tokenizer_json(), n_vocab=self._vocab_size, eos_token=list(eos_token_ids) or None
                )
            except Exception as error:  # the library raises plain Exception
                raise GrammarError(f"this model's tokenizer cannot follow grammars: {error}") from error
            self._tokenizers[eos_token_ids] = known
        return known

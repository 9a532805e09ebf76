from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from bench.apps import App, Texts, check_same
from bench.checkpoint import TINY, make_tokenizer
from bench.graphs import assistant, chain, cyclic, duplicated, late_input, map_reduce, multi_agent, single
from bench.workloads.b9 import stages


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer(TINY.vocab, 0)


def _length(tokenizer: Tokenizer, app: App, index: int, output: int) -> int:
    """Tokens of a step's prompt, when every output before it has `output` one-token words."""
    texts = Texts(tokenizer, "outputs")
    outputs = {step.name: texts.make(step.max_tokens) for step in app.steps}
    return len(tokenizer.encode(app.steps[index].render(outputs)).ids)


def test_texts_have_exactly_so_many_tokens_and_the_same_seed_makes_the_same(tokenizer: Tokenizer) -> None:
    one, other = Texts(tokenizer, 1), Texts(tokenizer, 1)
    assert len(tokenizer.encode(one.make(37)).ids) == 37
    other.make(37)
    assert one.make(5) == other.make(5)
    assert Texts(tokenizer, 2).make(37) != Texts(tokenizer, 1).make(37)


def test_a_chain_reads_the_summary_so_far_and_the_next_chunk(tokenizer: Tokenizer) -> None:
    app = chain(Texts(tokenizer, 0), 3, 16, 4)
    assert [step.inputs for step in app.steps] == [[], ["s0"], ["s1"]]
    assert [_length(tokenizer, app, index, 4) for index in range(3)] == [16, 20, 20]


def test_a_reduce_reads_every_map(tokenizer: Tokenizer) -> None:
    app = map_reduce(Texts(tokenizer, 0), 4, 16, 5)
    assert app.steps[-1].inputs == ["m0", "m1", "m2", "m3"]
    assert _length(tokenizer, app, -1, 5) == 8 + 4 * 5


def test_calls_of_a_stage_of_many_agents_begin_alike_and_end_apart(tokenizer: Tokenizer) -> None:
    app = multi_agent(Texts(tokenizer, 0), 3, 2, 4)
    assert len(app.steps) == 1 + 3 + 2 * (3 + 3)
    texts = Texts(tokenizer, "outputs")
    outputs = {step.name: texts.make(4) for step in app.steps}
    first, second = (step.render(outputs) for step in app.steps[1:3])
    assert first != second
    common = len([None for a, b in zip(first.split(), second.split(), strict=True) if a == b])
    assert common >= 32 + 4


def test_the_bound_s_stages_are_as_long_as_the_graph_s(tokenizer: Tokenizer) -> None:
    files, rounds, output = 3, 2, 4
    app = multi_agent(Texts(tokenizer, 0), files, rounds, output, role=32)
    expected = [
        stage.shared + stage.own for stage in stages(files, rounds, output) for _ in range(stage.width)
    ]
    assert [_length(tokenizer, app, index, output) for index in range(len(app.steps))] == expected


def test_agents_in_turn_come_back_to_their_own_context(tokenizer: Tokenizer) -> None:
    app = cyclic(Texts(tokenizer, 0), 3, 16, 2, 4)
    assert app.steps[0].prompt[0] == app.steps[3].prompt[0]
    assert app.steps[0].prompt[0] != app.steps[1].prompt[0]
    assert app.steps[4].inputs == ["t3"]


def test_duplicates_are_the_same_call_under_another_name(tokenizer: Tokenizer) -> None:
    app = duplicated(Texts(tokenizer, 0), 8, 0.5, 16, 4)
    assert len({step.prompt for step in app.steps}) == 4
    assert len({step.name for step in app.steps}) == 8


def test_a_late_variable_is_first_or_last(tokenizer: Tokenizer) -> None:
    last = late_input(Texts(tokenizer, 0), 32, 8, 4, late_last=True).steps[1]
    first = late_input(Texts(tokenizer, 0), 32, 8, 4, late_last=False).steps[1]
    assert last.prompt == first.prompt[::-1]


def test_a_program_carries_given_values_and_what_is_wanted_how_fast(tokenizer: Tokenizer) -> None:
    app = assistant(Texts(tokenizer, 0), "You help.", 4, 8)
    assert app.program()["variables"] == {"query": app.steps[0].render({}).removeprefix("You help.")}
    assert app.program()["get"] == {"answer": None}
    chat = single(Texts(tokenizer, 0), 8, 4, tpot_ms=30.0)
    assert chat.program()["get"] == {"answer": {"tpot_ms": 30.0}}


def test_modes_that_end_in_other_texts_fail_the_run() -> None:
    check_same([{"a": "x"}], [{"a": "x"}])
    with pytest.raises(RuntimeError, match="app 0"):
        check_same([{"a": "x"}], [{"a": "y"}])

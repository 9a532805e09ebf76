"""The kit's pure parts: agreement of tokens, floors and rooflines, budgets, files, the tuning table."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest
import torch

from bench.gpu.agreement import TIE, compare, relative_gap
from bench.gpu.drive import Answer, Outcome, Step
from bench.gpu.machine import Machine
from bench.gpu.report import Began, Ended, Gate, Header, Message, Report, Row
from bench.gpu.results import Document, Results
from bench.gpu.roofline import roofline
from bench.gpu.sections import SECTIONS, budget
from bench.gpu.shapes import LLAMA_8B, QWEN3_06B
from bench.gpu.tuning import candidates, table
from engine.types import TokenLogprobs, TopLogprob
from ops.kernels.configs import M_TILES, AttentionConfig, attention_configs

MACHINE = Machine(torch.device("cpu"), torch.float16, True, 1, bandwidth=3e12, rate=8e14)
VOCAB = 1000


def _answer(tokens: list[int], gap: float = 1.0) -> Answer:
    """Its tokens were likelier than the second by `gap`, on logits whose best stands 10 above their log-mean."""
    best = 10.0 - math.log(VOCAB)
    top = (TopLogprob(0, best), TopLogprob(1, best - gap))
    return Answer(tokens=tokens, logprobs=[TokenLogprobs(best, top)] * len(tokens))


def test_the_gap_of_two_tokens_is_relative_to_the_logits_scale() -> None:
    assert relative_gap(_answer([1], gap=2.0), 0, VOCAB) == pytest.approx(0.2)


def test_tokens_may_part_at_a_tie_only() -> None:
    close, clear = 10 * TIE * 0.9, 10 * TIE * 1.1
    assert compare([(_answer([1, 2, 3], close), _answer([1, 9, 9]))], VOCAB, exact=False).ok
    parted = compare([(_answer([1, 2, 3], clear), _answer([1, 9, 9]))], VOCAB, exact=False)
    assert not parted.ok
    assert "parts at token 1" in str(parted)


def test_where_nothing_may_differ_a_tie_is_no_excuse() -> None:
    assert not compare([(_answer([1, 2], 0.0), _answer([1, 3]))], VOCAB, exact=True).ok
    same = compare([(_answer([1, 2]), _answer([1, 2]))], VOCAB, exact=True)
    assert (same.ok, same.identical) == (True, 1)


def test_logprobs_may_differ_by_no_more_than_a_tie_is_wide() -> None:
    near, far = _answer([1, 2]), _answer([1, 2])
    near.logprobs[1] = TokenLogprobs(near.logprobs[0].logprob + 10 * TIE * 0.9)
    far.logprobs[1] = TokenLogprobs(far.logprobs[0].logprob + 10 * TIE * 1.1)
    reference = _answer([1, 2])
    assert compare([(reference, near)], VOCAB, exact=False).ok
    assert not compare([(reference, near)], VOCAB, exact=True).ok
    assert "token 1 a logprob" in str(compare([(reference, far)], VOCAB, exact=False))
    far.logprobs[1] = TokenLogprobs(math.nan)
    assert not compare([(reference, far)], VOCAB, exact=False).ok


def test_an_answer_that_is_cut_short_does_not_agree() -> None:
    assert not compare([(_answer([1, 2]), _answer([1]))], VOCAB, exact=True).ok
    assert not compare([(_answer([1]), _answer([1, 2]))], VOCAB, exact=False).ok
    assert not compare([], VOCAB, exact=False).ok


def test_parameters_are_those_of_the_models_whose_shapes_these_are() -> None:
    assert QWEN3_06B.parameters == pytest.approx(596e6, rel=0.01)
    assert LLAMA_8B.parameters == pytest.approx(8.03e9, rel=0.01)
    assert QWEN3_06B.kv_bytes == 2 * 28 * 8 * 128 * 2
    assert LLAMA_8B.kv_bytes == 128 * 1024


def test_a_decode_step_reads_the_weights_once_and_every_context() -> None:
    one, two = LLAMA_8B.decode_bytes([1000]), LLAMA_8B.decode_bytes([1000, 500])
    assert two - one == 501 * LLAMA_8B.kv_bytes
    assert one == LLAMA_8B.step_weights * 2 + 1001 * LLAMA_8B.kv_bytes


def test_a_prompt_in_pieces_costs_the_operations_of_the_whole() -> None:
    head = 2 * LLAMA_8B.hidden * LLAMA_8B.vocab
    pieces = LLAMA_8B.prefill_operations(300) + LLAMA_8B.prefill_operations(700, cached=300) - head
    assert pieces == LLAMA_8B.prefill_operations(1000)


def test_the_roofline_of_one_request_is_its_prefill_and_its_steps() -> None:
    found = roofline(MACHINE, LLAMA_8B, [(1000, 3)])
    assert found.prefill_s == pytest.approx(LLAMA_8B.prefill_operations(1000) / MACHINE.rate)
    steps = [MACHINE.floor(LLAMA_8B.decode_bytes([1000 + i])) for i in (1, 2)]
    assert found.decode_s == pytest.approx(sum(steps))
    assert found.tokens_per_s == pytest.approx(3 / (found.prefill_s + found.decode_s))


def test_more_requests_at_once_have_a_higher_roofline() -> None:
    one, many = roofline(MACHINE, QWEN3_06B, [(500, 500)]), roofline(MACHINE, QWEN3_06B, [(500, 500)] * 64)
    assert many.tokens_per_s > 10 * one.tokens_per_s


def test_the_median_step_counts_only_steps_in_which_all_decode() -> None:
    answers = {0: Answer([1] * 9, first_s=1.0, last_s=9.0), 1: Answer([1] * 9, first_s=4.0, last_s=12.0)}
    ends = (1.0, 4.0, 5.0, 6.5, 7.5, 9.0, 30.0)
    outcome = Outcome(answers, [Step(end, 2, 2, 0) for end in ends], 30.0)
    assert outcome.median_decode_s() == pytest.approx(1.25)  # of 1, 1.5, 1, 1.5


def test_without_two_steps_in_which_all_decode_there_is_no_median() -> None:
    answers = {0: Answer([1], first_s=1.0, last_s=2.0), 1: Answer([1], first_s=3.0, last_s=4.0)}
    assert Outcome(answers, [Step(1.0, 1, 1, 0), Step(3.0, 1, 1, 0)], 4.0).median_decode_s() is None


def test_all_sections_fit_the_limit_and_one_alone_has_all_of_it() -> None:
    names = list(SECTIONS)
    assert sum(section.budget_s for section in SECTIONS.values()) < 480
    assert budget(["tuning"], 480, small=False) == 480
    assert budget(names, 480, small=False) < 480
    assert budget(names[-2:], 20, small=False) == 20  # it may take what is left, never more


def test_time_that_a_section_leaves_goes_to_the_next() -> None:
    names = list(SECTIONS)
    others = sum(SECTIONS[name].budget_s for name in names[2:])
    own = SECTIONS[names[1]].budget_s
    assert budget(names[1:], others + own, small=False) == own
    assert budget(names[1:], others + own + 30, small=False) == own + 30


def test_the_files_hold_all_that_was_said_after_every_message(tmp_path: Path) -> None:
    results = Results(tmp_path, "python -m bench.gpu", small=True, commit="abc")
    report = Report(results.take, judged=True)
    results.take(Began("steps", "text", 1.0))
    row = report.table("times", "what", "ms")
    row("first", 1.5)
    document = msgspec.json.decode(results.json_path.read_bytes(), type=Document)
    assert document.sections[0].tables[0].rows == [("first", 1.5)]
    assert document.commit == "abc"
    assert "first" in results.text_path.read_text()
    report.at_most("time", 2.0, 1.5, "ms")
    results.take(Ended("steps", "ok", 1.0))
    results.close()
    assert results.ok
    assert "FAIL" in results.text_path.read_text()
    (target,) = msgspec.json.decode(results.json_path.read_bytes(), type=Document).sections[0].targets
    assert target.ok is False


def test_a_row_of_another_width_than_its_table_is_refused() -> None:
    sent: list[Message] = []
    report = Report(sent.append, judged=False)
    row = report.table("times", "what", "ms")
    with pytest.raises(ValueError, match="3 values for 2 columns"):
        row("first", 1, 2)
    row("second", None)
    assert sent == [Header("times", ("what", "ms")), Row("times", ("second", None))]


def test_a_gate_that_fails_is_remembered() -> None:
    report = Report(lambda message: None, judged=True)
    assert report.gate("good", True)
    assert not report.gate("bad", False, "why")
    assert report.failed == ["bad"]


def test_a_target_that_is_no_figure_is_a_gate_that_failed() -> None:
    sent: list[Message] = []
    report = Report(sent.append, judged=True)
    report.at_most("time", math.nan, 1.0)
    assert sent == [Gate("time", False, "nan is no figure")]
    assert report.failed == ["time"]


def test_candidates_are_the_committed_configurations_on_one_m_tile() -> None:
    found = candidates(64)
    assert {config.block_m for config in found} == {64}
    for head_dim in (64, 128):
        for config in attention_configs(head_dim, 1, 64, 2, False):
            values = (config.block_n, config.num_warps, config.num_stages, config.programs)
            assert AttentionConfig(64, *values) in found
    assert len({candidate.block_m for m in M_TILES for candidate in candidates(m)}) == len(M_TILES)


def test_the_tuning_table_takes_the_configuration_of_the_slowest_problem() -> None:
    fast, slow = AttentionConfig(16, 32, 4, 5, 3), AttentionConfig(16, 64, 8, 3, 2)
    text = table({(128, 16): [(1e-6, fast), (9e-6, slow)], (64, 16): [(1e-6, fast)]})
    assert text.splitlines()[1:] == ["    (64, 16): (32, 4, 5, 3),", "    (128, 16): (64, 8, 3, 2),"]

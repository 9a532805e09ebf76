"""Sampling fields: ranges, defaults, and errors that name the field."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot.wire import Sampling
from server.errors import BadRequest
from server.generation import GenerationParams
from server.sampling import SamplingModel, validate
from server.tokenizer import GenerationDefaults

MANY_BIASES = {str(key): 1.0 for key in range(1025)}
MODEL = SamplingModel(vocab_size=100, eos_token_ids=(2,))


def complete(fields: Sampling, model: SamplingModel = MODEL, logprobs: int | None = None) -> GenerationParams:
    return validate(fields, model, max_tokens=16, draw_seed=lambda: 7, logprobs=logprobs, param="sampling.")


def test_without_any_field_openai_s_defaults_hold() -> None:
    params = complete(Sampling())
    assert params.sampling.temperature == 1.0
    assert params.sampling.max_tokens == 16
    assert params.sampling.seed == 7
    assert params.sampling.eos_token_ids == (2,)
    assert params.stop == ()
    assert params.skip_special_tokens
    assert not params.include_stop


def test_the_model_s_generation_config_comes_before_the_defaults_and_after_the_request() -> None:
    model = SamplingModel(100, defaults=GenerationDefaults(temperature=0.6, top_p=0.95, top_k=20, min_p=0.1))
    params = complete(Sampling(temperature=0, top_k=-1), model).sampling
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.0, 0.95, 0, 0.1)


def test_what_is_given_is_honoured() -> None:
    fields = Sampling(
        max_tokens=5,
        min_tokens=5,
        stop="END",
        stop_token_ids=[3],
        logit_bias={"4": -100, "99": 1.5},
        include_stop_str_in_output=True,
        skip_special_tokens=False,
        ignore_eos=True,
        seed=-1,
        repetition_penalty=1.1,
    )
    params = complete(fields, logprobs=0)
    assert params.stop == ("END",)
    assert params.include_stop
    assert not params.skip_special_tokens
    sampling = params.sampling
    assert (sampling.max_tokens, sampling.min_tokens, sampling.logprobs) == (5, 5, 0)
    assert sampling.logit_bias == {4: -100.0, 99: 1.5}
    assert sampling.seed == 2**63 - 1
    assert sampling.ignore_eos


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("max_tokens", [0, -1, 2**31]),
        ("min_tokens", [-1, 17]),
        ("temperature", [-0.1, 2.1, math.nan, math.inf]),
        ("top_p", [0, -1, 1.1, math.nan]),
        ("top_k", [-2, 2**40]),
        ("min_p", [-0.1, 1.1, math.nan]),
        ("presence_penalty", [-2.1, 2.1, math.nan]),
        ("frequency_penalty", [-2.1, 2.1, math.inf]),
        ("repetition_penalty", [0, -1, 10.1, math.nan]),
        ("seed", [2**63, -(2**63) - 1]),
        ("stop", ["", ["a", ""], ["a"] * 17, "a" * 257]),
        ("stop_token_ids", [[-1], [100], [1] * 257]),
        (
            "logit_bias",
            [
                {"x": 1},
                {"-1": 1},
                {"100": 1},
                {"²": 1},
                {"1": 101},
                {"1": math.nan},
                {"9" * 5000: 1},
                MANY_BIASES,
            ],
        ),
    ],
)
def test_a_value_out_of_range_is_refused_and_the_field_named(field: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(BadRequest) as error:
            complete(Sampling(**{field: value}))  # type: ignore[arg-type]
        assert error.value.info.param == f"sampling.{field}"


@pytest.mark.parametrize("logprobs", [-1, 21])
def test_logprobs_have_a_cap(logprobs: int) -> None:
    with pytest.raises(BadRequest) as error:
        complete(Sampling(), logprobs=logprobs)
    assert error.value.info.param == "sampling.logprobs"


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_int64_is_a_seed_that_fits_the_engine(seed: int) -> None:
    found = complete(Sampling(seed=seed)).sampling.seed
    assert 0 <= found < 2**63
    assert seed < 0 or found == seed

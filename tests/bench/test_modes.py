from __future__ import annotations

import pytest

from bench.modes import ENGINE, MODES, NONE, OURS, PARROT, RADIX
from bench.workloads.ablation import TRIALS
from server.config import FEATURES
from server.flags import parse_config


def test_every_mode_starts_a_server() -> None:
    for mode in MODES.values():
        assert parse_config(mode.flags).disable == mode.disabled


def test_ours_has_everything_on_and_the_paper_s_baseline_nothing() -> None:
    assert OURS.disabled == ()
    assert set(NONE.disabled) == set(FEATURES) - ENGINE


def test_modes_differ_only_by_features_that_exist() -> None:
    for mode in MODES.values():
        assert mode.features <= set(FEATURES)
    assert RADIX.features < PARROT.features < OURS.features


def test_a_mode_without_a_feature_disables_one_more() -> None:
    assert OURS.without("call-dedup").disabled == ("call-dedup",)
    with pytest.raises(ValueError, match="call-dedup"):
        RADIX.without("call-dedup")


def test_what_an_engine_is_made_of_is_the_same_in_every_mode() -> None:
    for mode in MODES.values():
        assert mode.features >= ENGINE


def test_the_ablation_tries_only_features_that_exist() -> None:
    assert set(TRIALS) <= set(FEATURES)

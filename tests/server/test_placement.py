"""Flags and environment decide on which GPU, or which cores, each engine computes."""

from __future__ import annotations

import pytest

from server.config import ServerConfig
from server.placement import Place, PlacementError, place_engines

CORES = (0, 1, 2, 3)


def test_each_device_has_an_engine_that_sees_it_alone() -> None:
    config = ServerConfig(device="cuda", devices=("2", "0"), engines=2)
    assert place_engines(config, None, CORES) == [Place("2"), Place("0")]


def test_a_device_that_is_named_twice_is_shared() -> None:
    config = ServerConfig(device="cuda", devices=("0", "1", "0"), engines=3)
    assert place_engines(config, None, CORES) == [Place("0", 2), Place("1", 1), Place("0", 2)]


def test_devices_count_what_the_environment_leaves_visible() -> None:
    config = ServerConfig(device="cuda", devices=("1", "GPU-7f"), engines=2)
    assert place_engines(config, "5, 6", CORES) == [Place("6"), Place("GPU-7f")]


def test_a_device_that_the_environment_hides_is_refused() -> None:
    config = ServerConfig(device="cuda", devices=("2",))
    with pytest.raises(PlacementError, match=r"--devices 2: .*CUDA_VISIBLE_DEVICES=5,6"):
        place_engines(config, "5,6", CORES)


def test_engines_on_the_cpu_see_no_gpu_and_have_cores_of_their_own() -> None:
    places = place_engines(ServerConfig(device="cpu", engines=2), None, CORES)
    assert [(place.visible_device, place.cores) for place in places] == [("", (0, 2)), ("", (1, 3))]


def test_engines_without_devices_share_whatever_gpu_they_find() -> None:
    places = place_engines(ServerConfig(engines=2), "0,1", CORES)
    assert [(place.visible_device, place.sharers) for place in places] == [(None, 2), (None, 2)]


def test_more_engines_than_cores_are_not_pinned() -> None:
    assert [place.cores for place in place_engines(ServerConfig(engines=5), None, CORES)] == [None] * 5

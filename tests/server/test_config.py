"""Flags, TOML file and environment become one ServerConfig, or an error that names the flag."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.config import FEATURES, ConfigError
from server.flags import parse_config


@pytest.fixture(autouse=True)
def _no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PARROT_API_KEY", raising=False)


def test_no_flags_serve_the_bundled_model_on_loopback() -> None:
    config = parse_config([])
    assert config.host == "127.0.0.1"
    assert config.engine == "torch"
    assert Path(config.model).name


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "parrot.toml"
    file.write_text('port = 9000\nmax_num_seqs = 8\napi_key = "k"\nkv_cache_memory = "64M"\n')
    config = parse_config(["--config", str(file), "--port", "9001"])
    assert (config.port, config.max_num_seqs, config.api_key) == (9001, 8, ("k",))
    assert config.kv_cache_memory == 64 * 2**20


def test_the_key_comes_from_the_environment_unless_a_flag_gives_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARROT_API_KEY", "from-env")
    assert parse_config([]).api_key == ("from-env",)
    assert parse_config(["--api-key", "a", "b"]).api_key == ("a", "b")


def test_sizes_have_units() -> None:
    assert parse_config(["--kv-cache-memory", "2GiB"]).kv_cache_memory == 2 * 2**30
    assert parse_config(["--kv-cache-memory", "1048576"]).kv_cache_memory == 2**20


@pytest.mark.parametrize(
    ("argv", "flag"),
    [
        (["--port", "70000"], "--port"),
        (["--engines", "0"], "--engines"),
        (["--disable", "prefix-cache,warp-drive"], "--disable"),
        (["--api-key", ""], "--api-key"),
        (["--config", "no/such/file.toml"], "--config"),
        (["--devices", "one"], "--devices"),
        (["--devices", ","], "--devices"),
        (["--devices", "0,1", "--engines", "3"], "--engines 3 and --devices 0,1"),
        (["--devices", "0", "--device", "cpu"], "--device cpu"),
        (["--devices", "0", "--engine", "sim"], "--devices"),
        (["--gpu-memory-utilization", "1.5"], "--gpu-memory-utilization"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_flag(argv: list[str], flag: str) -> None:
    with pytest.raises(ConfigError, match=flag):
        parse_config(argv)


def test_an_unknown_or_ill_typed_key_of_the_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "parrot.toml"
    file.write_text("prot = 1\n")
    with pytest.raises(ConfigError, match="prot"):
        parse_config(["--config", str(file)])
    file.write_text('port = "eighty"\n')
    with pytest.raises(ConfigError, match="--port"):
        parse_config(["--config", str(file)])


def test_help_ends_well_and_lists_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_config(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for flag in ("--host", "--port", "--model", "--api-key", "--engines", "--disable", "--config"):
        assert flag in text


def test_keys_have_a_file_with_limits_and_salts(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text('[[keys]]\nkey = "a"\nmax_concurrency = 2\n[[keys]]\nkey = "b"\nsalt = "team"\n')
    first, second = parse_config(["--api-key-file", str(file)]).keys
    assert (first.key, first.max_concurrency, first.salt) == ("a", 2, None)
    assert (second.key, second.max_concurrency, second.salt) == ("b", None, "team")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "keys = []",
        '[[keys]]\nkey = ""',
        '[[keys]]\nkey = "a"\nlimit = 1',
        '[[keys]]\nkey = "a"\n' * 2,
        "[",
    ],
)
def test_a_wrong_key_file_is_an_error_that_names_the_flag(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="--api-key-file"):
        parse_config(["--api-key-file", str(file)])


def test_timeouts_must_be_above_zero() -> None:
    with pytest.raises(ConfigError, match="--client-timeout"):
        parse_config(["--client-timeout", "0"])


def test_every_toggle_can_be_disabled() -> None:
    assert parse_config(["--disable", ",".join(FEATURES)]).disable == FEATURES


@pytest.mark.parametrize("text", ['devices = "0,1"', "devices = [0, 1]", 'devices = ["0", "1"]'])
def test_devices_bring_their_engines_from_flags_and_from_the_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "parrot.toml"
    file.write_text(text + "\n")
    config = parse_config(["--config", str(file)])
    assert (
        config == parse_config(["--devices", "0,1"]) == parse_config(["--devices", "0,1", "--engines", "2"])
    )
    assert (config.devices, config.engines, config.device) == (("0", "1"), 2, "cuda")


def test_the_engines_of_the_file_may_not_contradict_devices_either(tmp_path: Path) -> None:
    file = tmp_path / "parrot.toml"
    file.write_text("engines = 2\n")
    with pytest.raises(ConfigError, match="--engines 2 and --devices 0"):
        parse_config(["--config", str(file), "--devices", "0"])


def test_the_same_device_may_serve_two_engines() -> None:
    assert parse_config(["--devices", "0,0"]).engines == 2


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
@pytest.mark.parametrize("flag", ["--shutdown-grace", "--step-timeout", "--client-timeout", "--sim-step-ms"])
def test_seconds_are_numbers_that_a_timer_takes(flag: str, value: str) -> None:
    with pytest.raises(ConfigError, match=flag):
        parse_config([f"{flag}={value}"])

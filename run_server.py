"""Parrot's entry point: flags and TOML to a ServerConfig, then the server until a signal ends it."""

from __future__ import annotations

import sys

from server.ahead import start_ahead
from server.config import ConfigError
from server.flags import parse_config


def main(argv: list[str]) -> int:
    """Serve; the exit code says how it ended: 0 drained, 1 cut short or could not start, 2 a wrong flag."""
    try:
        config = parse_config(argv)
    except ConfigError as error:
        print(f"run_server.py: error: {error}", file=sys.stderr)
        return 2
    start_ahead(config)
    from server.app import run  # while the engine imports, which takes longer

    return run(config)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

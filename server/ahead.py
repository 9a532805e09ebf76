"""What happens between the flags and the server's own imports: an engine starts on its own, which take longer."""

from __future__ import annotations

from engine.launch import launch_ahead
from server.config import ServerConfig


def start_ahead(config: ServerConfig) -> None:
    """Start an engine process where it is known already that one without a place of its own is wanted."""
    if config.engine == "torch" and config.engines == 1:
        launch_ahead()

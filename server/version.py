"""The version, in one place for the server; `pyproject.toml` has the SDK's."""

from __future__ import annotations

VERSION = "0.1.0"

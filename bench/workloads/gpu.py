"""`python -m bench gpu`: the kit of `bench.gpu`."""

from __future__ import annotations

from bench.gpu.kit import main

__all__ = ["main"]

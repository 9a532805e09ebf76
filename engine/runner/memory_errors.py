"""Memory that is short has one name.

Responsible for: turning torch's ways of saying so into MemoryError, which the core knows without knowing torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_ON_CPU = "can't allocate memory"


@contextmanager
def named_memory_errors() -> Iterator[None]:
    """Raises MemoryError where the allocator of torch, on a CPU or a GPU, could not allocate."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or _ON_CPU in str(error):
            raise MemoryError(str(error)) from error
        raise

"""Kernels under Triton's interpreter: a pytest process of its own (see test_kernels_interpreted.py).

TRITON_INTERPRET is read when a kernel is decorated, so these tests are collected only where it is set.
"""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]

"""The GPU's runner under Triton's interpreter: part of the pytest process of test_kernels_interpreted.py.

TRITON_INTERPRET is read when a kernel is decorated, so these tests are collected only where it is set. A program
takes some 10 ms here: models of one layer, prompts of some twenty tokens.
"""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]

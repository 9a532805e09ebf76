"""How this package's functions are compiled.

No fast-math anywhere: results are IEEE's, the same at every call. Division follows numpy, without a check for zero.
Only what Python calls gets a wrapper for it, and a place in the cache on disk (`ops.compiled.cache`).
"""

from __future__ import annotations

from numba import njit

from ops.compiled.cache import open_cache

inner = njit(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""Called by compiled functions alone."""

entry = njit(error_model="numpy", nogil=True, cache=open_cache() is not None)
"""Called from Python, and lets other threads have it meanwhile."""

"""`python -m bench.gpu`."""

from __future__ import annotations

import sys

from bench.gpu.kit import main

sys.exit(main(sys.argv[1:]))

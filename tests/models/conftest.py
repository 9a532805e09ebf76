"""The bundled model's scripts are no package (its folder has a dash), so the folder goes on the path."""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "models" / "parrot-tales"
sys.path.insert(0, str(FOLDER))

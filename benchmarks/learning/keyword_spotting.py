"""MLPerf Tiny's keyword spotting as a recipe that only evaluates: the reference int8 weights, converted from TFLite.

    ganglion model evaluate benchmarks/learning/keyword_spotting.py

Inputs and weights are read where the folder that GANGLION_SHARED_DATA names holds `mlperf_tiny_kws01`; the conversion
is that of the networks' tests.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from ganglion.core.errors import DataError  # after the path that finds the tests
from ganglion.learning.recipe import Examples, Recipe  # see above
from tests.kernels.networks import mlperf  # see above

if "GANGLION_SHARED_DATA" in os.environ:
    mlperf.DATA = Path(os.environ["GANGLION_SHARED_DATA"]) / "mlperf_tiny_kws01"
SCALE, ZERO = np.float32(0.5847029), 83
"""Of the model's int8 input: a real number is SCALE * (integer - ZERO)."""
WORDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "silence", "unknown")


def data(_: Path) -> dict[str, Examples]:
    """The 250 utterances of dev and the 250 of train, on neither of which anything was learned here."""
    if not mlperf.DATA.is_dir():
        raise DataError(
            "learning.file",
            f"{mlperf.DATA} is not there",
            why="MLPerf Tiny's inputs and weights do not lie in this repository",
            next_step="name the folder that holds mlperf_tiny_kws01 in GANGLION_SHARED_DATA",
        )
    return {part: _part(mlperf.DATA / part) for part in ("dev", "train")}


def _part(folder: Path) -> Examples:
    files = sorted((folder / "bin").glob("*.bin"))
    whole = np.stack([np.frombuffer(f.read_bytes(), np.int8).reshape(1, 49, 10) for f in files])
    classes = np.array([int(f.stem.rsplit("_", 1)[1]) for f in files], np.int64)
    return Examples((whole.astype(np.float32) - ZERO) * SCALE, classes)


recipe = Recipe(name="keyword-spotting", classes=WORDS, data=data, network=mlperf.keyword_spotting)

"""The feeder's own recordings: see ../generate.py, which this runs."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[1] / "generate.py"), run_name="__main__")

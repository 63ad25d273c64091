"""What a node's process holds in memory because it was imported: nothing that a node does not use."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "click",
    "cryptography",  # only with an identity
    "ganglion.core.topology",
    "ganglion.device.firmware",
    "ganglion.placement",
    "ganglion.sim",
    "highspy",
    "multiprocessing",
    "numpy.polynomial",
    "numpy.random",
    "numpy.testing",
    "onnx",
    "onnxruntime",
    "pyarrow",
    "pydantic",
    "pydantic_core",
    "rich",
    "typer",
    "unittest",
    "yaml",
)


def imported(statement: str) -> list[str]:
    """Which of `HEAVY` a fresh interpreter has after ``statement``."""
    shown = "import sys; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}\n{shown}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [m for m in HEAVY if m in done.stdout.splitlines()]


def test_an_agent_imports_nothing_heavy_that_a_node_does_not_use():
    assert imported("import ganglion.agent.__main__") == []


@pytest.mark.parametrize("module", ["pydantic", "yaml", "unittest", "ganglion.core.topology"])
def test_an_import_of_one_of_them_is_noticed(module):
    assert module in imported(f"import {module}")

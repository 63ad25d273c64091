"""Finds the flow a directory defines: ``flow.py`` with one module-level `Flow`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from ganglion.core.errors import FlowError, GanglionError
from ganglion.flow.build import Flow
from ganglion.flow.spec import FlowSpec


def load_flow(directory: Path) -> FlowSpec:
    """Runs ``directory/flow.py`` and returns its flow.

    Raises `FlowError` ``flow.missing`` (no such file or no flow in it) or ``flow.code`` (it raised).
    The directory's own modules can be imported by it.
    """
    path = directory / "flow.py"
    if not path.is_file():
        raise FlowError(
            "flow.missing",
            f"there is no {path}",
            why="a flow directory holds flow.py and topology.yaml",
            next_step="name such a directory, e.g. examples/feeder",
        )
    location = str(directory.resolve())
    spec = importlib.util.spec_from_file_location(f"ganglion_flow_{directory.resolve().name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and inspect look modules up by name
    sys.path.insert(0, location)
    try:
        spec.loader.exec_module(module)
    except GanglionError:
        raise
    except Exception as error:
        raise FlowError(
            "flow.code",
            f"{path} failed: {type(error).__name__}: {error}",
            why="it must run to define the flow",
            next_step=f"try it alone: python {path}",
        ) from error
    finally:
        sys.path.remove(location)
    flows = [v for v in vars(module).values() if isinstance(v, Flow)]
    if len(flows) != 1:
        raise FlowError(
            "flow.missing",
            f"{path} defines {len(flows)} flows",
            why="it must hold exactly one at module level",
            next_step='write flow = gg.Flow("name") once',
        )
    return flows[0].spec()

"""Finds the flow a directory defines: ``flow.py`` with one module-level `Flow`."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path

from ganglion.core.authored import as_it_stands
from ganglion.core.errors import FlowError, GanglionError
from ganglion.flow.assignment import Assignment
from ganglion.flow.build import Flow
from ganglion.flow.spec import FlowSpec


def load_flow(directory: Path) -> FlowSpec:
    """Runs ``directory/flow.py`` and returns its flow.

    Raises `FlowError` ``flow.missing`` (no such file or no flow in it) or ``flow.code`` (it raised).
    The directory's own modules can be imported by it, at module level; another directory's modules of the same
    names do not get in the way.
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
    spec = importlib.util.spec_from_file_location(f"ganglion_flow_{directory.resolve().name}", path.resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and inspect look modules up by name
    known = set(sys.modules)
    sys.path.insert(0, location)
    try:
        with as_it_stands():
            spec.loader.exec_module(module)
    except GanglionError:
        raise
    except (Exception, SystemExit) as error:  # a script's sys.exit() must not end us without a word
        raise FlowError(
            "flow.code",
            f"{path} failed: {type(error).__name__}: {error}{_place(error, location)}",
            why="it must run to define the flow",
            next_step=f"try it alone: python {path}",
        ) from error
    finally:
        if location in sys.path:
            sys.path.remove(location)
        for name in set(sys.modules) - known:
            if _is_own(getattr(sys.modules[name], "__file__", None), location):
                del sys.modules[name]
    flows = list({id(v): v for v in vars(module).values() if isinstance(v, Flow)}.values())
    if len(flows) != 1:
        raise FlowError(
            "flow.missing",
            f"{path} defines {len(flows)} flows",
            why="it must hold exactly one at module level",
            next_step='write flow = gg.Flow("name") once',
        )
    return flows[0].spec()


def load_planned(directory: Path, assignment: Assignment) -> FlowSpec:
    """The flow that an assignment is a part of; raises `FlowError` ``flow.changed`` for another, and as `load_flow`."""
    return check_planned(load_flow(directory), directory, assignment)


def check_planned(spec: FlowSpec, directory: Path, assignment: Assignment) -> FlowSpec:
    """``spec`` itself; raises `FlowError` ``flow.changed`` when it is not what was planned."""
    if spec.digest != assignment.flow_digest:
        raise FlowError(
            "flow.changed",
            f"{directory} is not the flow that was planned",
            why=f"its digest is {spec.digest[:12]}, the plan's {assignment.flow_digest[:12]}",
            next_step="plan and start again: ganglion run FLOW_DIR",
        )
    return spec


def _is_own(file: str | None, location: str) -> bool:
    """True for a module the author wrote beside flow.py; an environment may lie in the same directory."""
    return file is not None and file.startswith(f"{location}/") and "site-packages" not in file


def _place(error: BaseException, location: str) -> str:
    """The innermost line of the flow's own files, which is where its author must look."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_own(f.filename, location)]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""

"""Running a kernel on rows: compiled where a library was proven, else its plain function in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ganglion.core.schema import TensorType
from ganglion.kernels.c.library import Library
from ganglion.kernels.c.proof import claim
from ganglion.kernels.folds.compiled import CompiledFolder
from ganglion.kernels.folds.fold import Fold, Folder, ReferenceFolder
from ganglion.kernels.kernel import Kernel, Record
from ganglion.kernels.ops.op import Array
from ganglion.kernels.tracing.trace import WHOLE

Libraries = Mapping[str, Library | CompiledFolder]
"""What was compiled, by digest."""

Saved = dict[str, Array]
"""One key's state as arrays by name: the same whichever way it was computed, so it can move between nodes."""


@dataclass(frozen=True, slots=True)
class Ran:
    """Columns of the rows that were emitted; ``kept``: their places among the rows given, None when all were."""

    columns: dict[str, Array]
    kept: Array | None


class Runner(Protocol):
    """One kernel; the caller keeps a state for each key and passes it in."""

    same_bits: bool

    @property
    def state_bytes(self) -> int:
        """The numbers of one key's state."""

    def fresh(self) -> Any:
        """A new key's state."""

    def rows(self, inputs: Mapping[str, Array], state: Any) -> Ran:
        """Rows of one key in turn. ``inputs``: field (or ``frame``) -> (n, *shape); ``state`` is changed in place."""

    def rows_of(self, inputs: Mapping[str, Array], states: Sequence[Any], keys: Array) -> Ran:
        """Rows of many keys in turn. ``keys`` int32 (n,): each row's place in ``states``, changed in place."""

    def save(self, state: Any) -> Saved:
        """A copy of a key's state."""

    def load(self, saved: Mapping[str, Any]) -> Any:
        """The state that `save` gave, of either runner."""


class CompiledRunner:
    """A loaded library that was proven to give the reference's bits."""

    same_bits = True

    def __init__(self, library: Library) -> None:
        self._library = library
        self._emits = library.program.emit is not None

    @property
    def state_bytes(self) -> int:
        return self._library.state.itemsize

    def fresh(self) -> Any:
        return self._library.fresh()

    def rows(self, inputs: Mapping[str, Array], state: Any) -> Ran:
        return self._ran(*self._library.rows(inputs, state))

    def rows_of(self, inputs: Mapping[str, Array], states: Sequence[Any], keys: Array) -> Ran:
        table = np.concatenate(states)
        columns, emitted = self._library.rows(inputs, table, keys)
        for place, state in enumerate(states):
            state[0] = table[place]
        return self._ran(columns, emitted)

    def _ran(self, columns: dict[str, Array], emitted: Array) -> Ran:
        if not self._emits or emitted.all():
            return Ran(columns, None)
        kept = np.flatnonzero(emitted)
        return Ran({name: column[kept] for name, column in columns.items()}, kept)

    def save(self, state: Any) -> Saved:
        return {f.name: state[f.name][0].copy() for f in self._library.program.state}

    def load(self, saved: Mapping[str, Any]) -> Any:
        table = self._library.fresh()
        for name, value in saved.items():
            table[name][0] = value
        return table


class NumpyRunner:
    """The kernel's function as it was written, row by row. Not the same bits on every machine."""

    same_bits = False

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._columns = tuple((f.name, f.type.numpy) for f in kernel.output.fields)
        self._whole = isinstance(kernel.input, TensorType)
        self._types = {n: kernel.program.nodes[number].type.numpy for n, number in kernel.program.inputs}

    @property
    def state_bytes(self) -> int:
        return sum(np.asarray(value).nbytes for value in self.fresh().values())

    def fresh(self) -> Any:
        return _fixed(self._kernel.fresh_state())

    def rows(self, inputs: Mapping[str, Array], state: Any) -> Ran:
        return self._in_turn(inputs, lambda _: state)

    def rows_of(self, inputs: Mapping[str, Array], states: Sequence[Any], keys: Array) -> Ran:
        places = keys.tolist()
        return self._in_turn(inputs, lambda i: states[places[i]])

    def _in_turn(self, inputs: Mapping[str, Array], state_of: Callable[[int], Any]) -> Ran:
        frame_of, count = self._frames(inputs)
        kept: list[int] = []
        rows: list[dict[str, Any]] = []
        for i in range(count):
            state = state_of(i)
            outputs, emit, after = self._kernel.step(frame_of(i), state)
            state.update(_fixed(after))
            if emit:
                kept.append(i)
                rows.append(outputs)
        columns = {name: np.array([r[name] for r in rows], dtype) for name, dtype in self._columns}
        return Ran(columns, None if len(kept) == count else np.array(kept, np.intp))

    def _frames(self, inputs: Mapping[str, Array]) -> tuple[Callable[[int], Any], int]:
        """The i-th row as the kernel sees it, read-only: a frame a kernel wrote into would leave here altered."""
        seen = {name: _read_only(np.asarray(inputs[name], dtype)) for name, dtype in self._types.items()}
        count = len(next(iter(seen.values())))
        if self._whole:
            return seen[WHOLE].__getitem__, count
        return lambda i: Record(**{name: column[i] for name, column in seen.items()}), count

    def save(self, state: Any) -> Saved:
        return {name: np.array(value) for name, value in state.items()}

    def load(self, saved: Mapping[str, Any]) -> Any:
        return _fixed({name: np.array(value)[()] for name, value in saved.items()})


def _fixed(state: Mapping[str, Any]) -> dict[str, Any]:
    """State a kernel cannot write into: it would alter rows already given, and a failed call would leave a trace."""
    return {name: _read_only(v) if isinstance(v, np.ndarray) else v for name, v in state.items()}


def claims(libraries: Libraries, computed_by: Mapping[str, str]) -> dict[str, str]:
    """Stage -> the build that computes it, and what that was tried on; ``computed_by``: stage -> digest."""
    return {
        stage: claim(libraries[digest].path) for stage, digest in computed_by.items() if digest in libraries
    }


def runner_of(kernel: Kernel, libraries: Libraries) -> Runner:
    """Compiled when ``libraries`` has it."""
    library = libraries.get(kernel.digest)
    if library is None:
        return NumpyRunner(kernel)
    assert isinstance(library, Library)
    return CompiledRunner(library)


def folder_of(fold: Fold, libraries: Libraries) -> Folder:
    """Compiled when ``libraries`` has it, else in NumPy; the same bits both ways."""
    folder = libraries.get(fold.digest)
    if folder is None:
        return ReferenceFolder(fold)
    assert isinstance(folder, CompiledFolder)
    return folder


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view

"""Trained weights between two commands: one npz file, without pickles, that knows which recipe and data it is of."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import orjson

from ganglion.core.errors import DataError
from ganglion.learning.recipe import Array, Dense, Examples, Layers, Recipe
from ganglion.learning.training import Trained

FILE_BYTES_MAX = 256 << 20


def _about(recipe: Recipe, who: str, layers: Layers, data: Examples) -> str:
    how = (recipe.teacher_training if who == "teacher" else None) or recipe.training
    return repr((recipe.name, who, layers, how, recipe.distillation, recipe.seeds, data.digest))


def dump(
    recipe: Recipe, who: str, data: Examples, networks: Sequence[Trained], facts: Mapping[str, object]
) -> bytes:
    """Networks of the ``teacher`` or ``student`` of a recipe, learnt from ``data``; ``facts`` as JSON."""
    arrays: dict[str, Array] = {
        f"{n}.{k}.{kind}": value
        for n, network in enumerate(networks)
        for k, both in enumerate(network.weights)
        for kind, value in zip(("weight", "bias"), both, strict=True)
    }
    about = _about(recipe, who, networks[0].layers, data)
    file = io.BytesIO()
    arrays |= {"about": np.array(about), "facts": np.array(orjson.dumps(facts).decode())}
    np.savez(file, **arrays)  # type: ignore[arg-type] # its stubs take no mapping
    return file.getvalue()


def load(
    path: Path, recipe: Recipe, who: str, layers: Layers, data: Examples
) -> tuple[list[Trained], dict[str, object]]:
    """What `dump` wrote. Raises `DataError` ``learning.kept`` when it is missing, of another recipe or other data."""
    command = "train" if who == "teacher" else "distill"
    whole = (*layers, Dense(len(recipe.classes)))
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ValueError("it is too large")
        # From memory: NumPy leaves a file open that it cannot read.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            about, facts = str(file["about"]), orjson.loads(str(file["facts"]))
            held = {name: np.array(file[name]) for name in file.files if "." in name}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _wrong(path, who, command, str(error)) from error
    if about != _about(recipe, who, whole, data):
        raise _wrong(path, who, command, "the recipe or its data changed since")
    count = 1 + max(int(name.partition(".")[0]) for name in held)
    shape = tuple(int(n) for n in data.inputs.shape[1:])
    networks = []
    for n in range(count):
        layers_n = sum(name.startswith(f"{n}.") for name in held) // 2
        weights = tuple((held[f"{n}.{k}.weight"], held[f"{n}.{k}.bias"]) for k in range(layers_n))
        networks.append(Trained(shape, whole, weights))
    return networks, facts


def _wrong(path: Path, who: str, command: str, why: str) -> DataError:
    return DataError(
        "learning.kept",
        f"there is no {who} to go on with in {path}",
        why=why,
        next_step=f"ganglion model {command} RECIPE, with the same --out",
    )

"""The model card: everything that went into a network and everything measured on it, as JSON beside its file.

After Mitchell et al., "Model cards for model reporting" (2019), the parts that a program can fill in. It holds no date
and no name of a machine, so the same work gives the same card.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import orjson

from ganglion.core.errors import DataError
from ganglion.learning.course import Pair, comparison
from ganglion.learning.footprint import Footprint
from ganglion.learning.gate import Finding
from ganglion.learning.int8_network import Int8Network
from ganglion.learning.recipe import Examples, Layers, Recipe

CARD_VERSION = 1
TOOLS = ("numpy", "onnx", "onnxruntime", "torch", "ziglang", "unicorn", "pandapower")


def network_facts(network: Int8Network, classes: Sequence[str]) -> dict[str, Any]:
    """What can be read from the file alone."""
    layers = network.network
    return {
        "sha256": network.digest,
        "file_bytes": len(network.content),
        "classes": list(classes),
        "input_shape": list(layers.input_shape),
        "input_scale": None if layers.input_scale is None else asdict(layers.input_scale),
        "output_scale": None if layers.output_scale is None else asdict(layers.output_scale),
        "layers": [type(layer).__name__ for layer in layers.layers],
        "products": layers.products,
    }


def data_facts(parts: Mapping[str, Examples], classes: Sequence[str]) -> dict[str, Any]:
    """Size, digest and classes of each part."""
    return {
        part: {
            "examples": len(examples),
            "sha256": examples.digest,
            "classes": {
                name: int(n)
                for name, n in zip(
                    classes, np.bincount(examples.classes, minlength=len(classes)), strict=True
                )
                if n
            },
        }
        for part, examples in parts.items()
    }


def tools() -> dict[str, str]:
    """Versions of what computed; a part that is not installed is left out."""
    found = {"python": platform.python_version(), "processor": platform.machine()}
    for name in TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _layers(layers: Layers | None) -> list[Any] | None:
    return None if layers is None else [{type(la).__name__: asdict(la)} for la in layers]


def learning_facts(recipe: Recipe, pairs: Sequence[Pair], seed: int) -> dict[str, Any]:
    """How it was learnt, and what a teacher was worth."""
    return {
        "student": _layers(recipe.student),
        "teacher": _layers(recipe.teacher),
        "training": asdict(recipe.training),
        "teacher_training": asdict(recipe.teacher_training or recipe.training),
        "distillation": asdict(recipe.distillation),
        "seeds": list(recipe.seeds),
        "seed": seed,
        "selected_by": recipe.select,
        "comparison": {
            name: {who: asdict(spread) for who, spread in both.items()}
            for name, both in comparison(pairs).items()
        },
    }


def card(
    recipe: Recipe,
    network: Int8Network,
    parts: Mapping[str, Examples],
    *,
    learnt: Mapping[str, Any] | None,
    float_measures: Mapping[str, float] | None,
    measures: Mapping[str, float],
    differing: int | None,
    sizes: Footprint,
    gate: Sequence[Finding],
) -> dict[str, Any]:
    """The whole card. ``learnt``, ``float_measures``: None for a network that came from elsewhere."""
    return {
        "card": CARD_VERSION,
        "name": recipe.name,
        "network": network_facts(network, recipe.classes),
        "data": data_facts(parts, recipe.classes),
        "learning": learnt,
        "float_measures": float_measures,
        "measures": dict(measures),
        "onnx_runtime_differing_integers": differing,
        "footprint": asdict(sizes),
        "gate": [{**asdict(f), "held": f.held} for f in gate],
        "tools": tools(),
    }


def dumps(content: Mapping[str, Any]) -> bytes:
    """JSON, indented, keys as given."""
    return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def loads(content: bytes, where: str) -> dict[str, Any]:
    """A card. Raises `DataError` ``learning.card`` when it is none."""
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        found, why = None, str(error)
    else:
        why = f"it is not a card of version {CARD_VERSION}"
    if (
        not isinstance(found, dict)
        or found.get("card") != CARD_VERSION
        or not isinstance(found.get("network"), dict)
    ):
        raise DataError(
            "learning.card",
            f"{where} is no model card",
            why=why,
            next_step="make it again: ganglion model quantize RECIPE",
        )
    return found

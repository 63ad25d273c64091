"""The course of a recipe: teacher, students with and without it, the int8 form; each step a function of the last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from ganglion.core.errors import DataError
from ganglion.learning import training
from ganglion.learning.float_graph import float_graph
from ganglion.learning.int8_network import Int8Network
from ganglion.learning.onnx_runtime import integers, quantised
from ganglion.learning.recipe import Answers, Array, Examples, Layers, Recipe, measures_of
from ganglion.learning.training import Trained

TEACHER_SEED_STEP = 1000
"""Member m of a teacher is trained from this many seeds further, so that no member starts as a student does."""


@dataclass(frozen=True)
class Pair:
    """One seed: the student trained alone and the one with a teacher, from the same first weights and batches."""

    seed: int
    alone: Trained
    distilled: Trained
    alone_measures: dict[str, float]
    distilled_measures: dict[str, float]


@dataclass(frozen=True)
class Spread:
    """Median, least and largest over seeds."""

    median: float
    least: float
    largest: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return Spread(median(values), min(values), max(values))


def measured(
    answers: Answers, recipe: Recipe, parts: Mapping[str, Examples], directory: Path
) -> dict[str, float]:
    """``accuracy.PART`` and ``balanced.PART`` (the mean over classes) of each part, and the recipe's own measures."""
    found: dict[str, float] = {}
    for part, examples in parts.items():
        right = answers(examples.inputs).argmax(1) == examples.classes
        found[f"accuracy.{part}"] = float(right.mean())
        found[f"balanced.{part}"] = float(
            np.mean([right[examples.classes == c].mean() for c in np.unique(examples.classes)])
        )
    return found | measures_of(recipe, answers, directory)


def answers_of(trained: Trained) -> Answers:
    """A trained network as a function."""
    return lambda inputs: training.logits(trained, inputs)


def teacher(recipe: Recipe, parts: Mapping[str, Examples]) -> list[Trained]:
    """The members, each from a seed of its own."""
    how = recipe.teacher_training or recipe.training
    classes, first = len(recipe.classes), recipe.seeds[0]
    return [
        training.train(
            layers_of(recipe, "teacher"),
            parts["train"],
            classes,
            how,
            first + TEACHER_SEED_STEP * (member + 1),
        )
        for member in range(recipe.distillation.members)
    ]


def teaching(members: Sequence[Trained]) -> Answers:
    """The teacher as a function: logarithms of its members' mean probabilities."""
    return lambda inputs: training.softened(members, inputs, 1.0)


def students(
    recipe: Recipe, parts: Mapping[str, Examples], members: Sequence[Trained], directory: Path
) -> list[Pair]:
    """Every seed twice."""
    how, examples, classes = recipe.distillation, parts["train"], len(recipe.classes)
    layers = layers_of(recipe, "student")
    soft = training.softened(members, examples.inputs, how.temperature)
    pairs = []
    for seed in recipe.seeds:
        alone = training.train(layers, examples, classes, recipe.training, seed)
        distilled = training.train(
            layers, examples, classes, recipe.training, seed, soft=soft, distillation=how
        )
        both = (measured(answers_of(t), recipe, parts, directory) for t in (alone, distilled))
        pairs.append(Pair(seed, alone, distilled, *both))
    return pairs


def comparison(pairs: Sequence[Pair]) -> dict[str, dict[str, Spread]]:
    """Per measure: ``alone``, ``distilled``, and ``gain``, the difference at the same seed."""
    return {
        name: {
            "alone": Spread.of([p.alone_measures[name] for p in pairs]),
            "distilled": Spread.of([p.distilled_measures[name] for p in pairs]),
            "gain": Spread.of([p.distilled_measures[name] - p.alone_measures[name] for p in pairs]),
        }
        for name in pairs[0].alone_measures
    }


def chosen(recipe: Recipe, pairs: Sequence[Pair]) -> Pair:
    """The distilled student that is best by ``recipe.select``; the first of equals.

    Raises `DataError` ``learning.measure`` when there is no such measure.
    """
    if recipe.select not in pairs[0].distilled_measures:
        raise unknown_measure(recipe.select, pairs[0].distilled_measures)
    return max(pairs, key=lambda pair: pair.distilled_measures[recipe.select])


def int8_of(trained: Trained, recipe: Recipe, parts: Mapping[str, Examples]) -> Int8Network:
    """The int8 form, its scales chosen on ``train``."""
    graph = float_graph(trained, recipe.name)
    return Int8Network.read(quantised(graph, parts["train"].inputs))


def differing(network: Int8Network, inputs: Array) -> int:
    """How many integers ONNX Runtime gives otherwise. Raises `HostError` ``learning.onnx-runtime`` without it."""
    frames = network.frames(inputs)
    theirs = integers(network.content, network.network, frames).reshape(len(inputs), -1)
    return int(np.sum(theirs != network.integers(inputs)))


def layers_of(recipe: Recipe, who: str) -> Layers:
    """The layers of the ``teacher`` or the ``student``. Raises `DataError` ``learning.layers`` when there are none."""
    layers = recipe.teacher if who == "teacher" else recipe.student
    if layers is None:
        raise DataError(
            "learning.layers",
            f"the recipe {recipe.name} has no {who}",
            why="it can only be evaluated and compiled",
            next_step=f"give it {who}=(Dense(32), ...), or use ganglion model evaluate",
        )
    return layers


def unknown_measure(name: str, known: Mapping[str, float]) -> DataError:
    """A measure that nothing gives."""
    return DataError(
        "learning.measure",
        f"there is no measure {name!r}",
        why=f"there are {', '.join(sorted(known))}",
        next_step="correct select or gate in the recipe",
    )

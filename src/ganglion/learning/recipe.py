"""A recipe: what a network learns from, how it is built and trained, what it must reach. A file beside a flow."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ganglion.core.authored import as_it_stands
from ganglion.core.errors import DataError, GanglionError

Array: TypeAlias = npt.NDArray[Any]
Answers: TypeAlias = Callable[[Array], Array]
"""A network as a function: float32 (n, *input shape) to float32 (n, classes), the logits."""
Measures: TypeAlias = Mapping[str, float]

EXAMPLES_MAX = 2_000_000
CLASSES_MAX = 1000
LAYERS_MAX = 100
WIDTH_MAX = 4096
EPOCHS_MAX, BATCH_MAX = 10_000, 65_536
SEEDS_MAX = 64
MEMBERS_MAX = 32


@dataclass(frozen=True, slots=True)
class Dense:
    """All inputs to ``width`` results; ReLU follows."""

    width: int


@dataclass(frozen=True, slots=True)
class Convolution:
    """``channels`` filters over rows and columns, padded by half of an odd ``kernel``; ReLU follows.

    ``depthwise``: one filter per channel, ``channels`` as many as come in.
    """

    channels: int
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    depthwise: bool = False


@dataclass(frozen=True, slots=True)
class GlobalAverage:
    """The mean of each channel."""


Layer: TypeAlias = Dense | Convolution | GlobalAverage
Layers: TypeAlias = tuple[Layer, ...]
"""Hidden layers; a last dense one with a result per class, without ReLU, is added."""


@dataclass(frozen=True)
class Examples:
    """``inputs``: float32 (n, *shape), shape (features,) or (channels, rows, columns); ``classes``: int64 (n,)."""

    inputs: Array
    classes: Array

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def digest(self) -> str:
        """SHA-256 of shapes, inputs and classes."""
        held = hashlib.sha256(repr((self.inputs.shape, self.classes.shape)).encode())
        held.update(np.ascontiguousarray(self.inputs, np.float32).tobytes())
        held.update(np.ascontiguousarray(self.classes, np.int64).tobytes())
        return held.hexdigest()


@dataclass(frozen=True, slots=True)
class Training:
    """AdamW with a one-cycle learning rate (Smith and Topin 2018), batches drawn without replacement each epoch."""

    epochs: int = 30
    batch: int = 512
    learning_rate: float = 4e-3
    weight_decay: float = 1e-3


@dataclass(frozen=True, slots=True)
class Distillation:
    """Hinton, Vinyals, Dean: "Distilling the knowledge in a neural network" (2015), equation 1 and section 2.

    The loss is ``weight * T^2 * KL(teacher at T, student at T) + (1 - weight) * cross-entropy``. The teacher is the
    mean of the probabilities of ``members`` networks, each trained from a seed of its own.
    """

    temperature: float = 3.0
    weight: float = 0.7
    members: int = 3


@dataclass(frozen=True)
class Gate:
    """What a network must reach to leave: measures by name that must be at least, or at most, a number.

    Names are those of the card: ``accuracy.PART``, what the recipe's ``measures`` gives, and ``flash_bytes``,
    ``ram_bytes``, ``stack_bytes``, ``instructions`` on ``target``, ``quantisation_loss`` (accuracy lost on ``check``).
    """

    at_least: Mapping[str, float] = field(default_factory=dict)
    at_most: Mapping[str, float] = field(default_factory=dict)
    target: str = "cortex-m4f"


@dataclass(frozen=True)
class Recipe:
    """Everything about one network.

    ``data``: a directory to keep things in, to examples by part. ``train`` is learnt from; ``check`` chooses the seed;
    other parts are only reported. ``measures``: the network and that directory to further numbers. ``network``: the
    finished file, beside the recipe, or a function that gives its bytes; ``evaluate`` and ``compile`` take it when
    nothing was trained. A recipe without ``student`` can only be evaluated and compiled.
    """

    name: str
    classes: tuple[str, ...]
    data: Callable[[Path], Mapping[str, Examples]]
    student: Layers | None = None
    teacher: Layers | None = None
    training: Training = Training()
    teacher_training: Training | None = None
    distillation: Distillation = Distillation()
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    measures: Callable[[Answers, Path], Measures] | None = None
    select: str = "accuracy.check"
    gate: Gate = Gate()
    network: str | Callable[[], bytes] | None = None


def load_recipe(path: Path) -> Recipe:
    """Runs a Python file and returns the one `Recipe` in it. The files beside it can be imported by plain names.

    Raises `DataError` ``learning.recipe`` when there is none, or it has values outside their limits, and
    ``learning.recipe-code`` when the file raised.
    """
    if not path.is_file():
        raise _wrong(path, "there is no such file")
    location = str(path.parent.resolve())
    spec = importlib.util.spec_from_file_location(f"ganglion_recipe_{path.stem}", path.resolve())
    if spec is None or spec.loader is None:
        raise _wrong(path, "it is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, location)  # and it stays: a recipe may import when its data are made
    with _code(path.name, location), as_it_stands():
        spec.loader.exec_module(module)
    found = list({id(v): v for v in vars(module).values() if isinstance(v, Recipe)}.values())
    if len(found) != 1:
        raise _wrong(path, f"it defines {len(found)} recipes, not one")
    _check(path, found[0])
    return found[0]


@contextmanager
def _code(what: str, location: str) -> Iterator[None]:
    """The author's code: what it raises is said with its line; our own errors pass."""
    try:
        yield
    except GanglionError:
        raise
    except (Exception, SystemExit) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(location)]
        where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
        raise DataError(
            "learning.recipe-code",
            f"{what} failed: {type(error).__name__}: {error}{where}",
            why="a recipe's file, data and measures must run",
            next_step="correct the line; python -m pdb RECIPE stops there",
        ) from error


def examples_of(recipe: Recipe, directory: Path) -> Mapping[str, Examples]:
    """The recipe's data.

    Raises `DataError` ``learning.recipe-code`` when its function fails, ``learning.examples`` for another form.
    """
    with _code(f"the data of {recipe.name}", _folder(recipe.data)):
        parts = recipe.data(directory)
    return _checked(parts, recipe)


def measures_of(recipe: Recipe, answers: Answers, directory: Path) -> dict[str, float]:
    """The recipe's own measures of a network. Raises `DataError` ``learning.recipe-code`` when they fail."""
    if recipe.measures is None:
        return {}
    with _code(f"the measures of {recipe.name}", _folder(recipe.measures)):
        return {name: float(value) for name, value in recipe.measures(answers, directory).items()}


def _folder(function: Callable[..., Any]) -> str:
    return str(Path(getattr(function, "__code__", _folder.__code__).co_filename).parent)


def _check(path: Path, recipe: Recipe) -> None:
    wrong = [why for good, why in _rules(recipe) if not good]
    if wrong:
        raise _wrong(path, wrong[0])


def _rules(r: Recipe) -> list[tuple[bool, str]]:
    trainings = [r.training, r.teacher_training or r.training]
    layers = (*(r.student or ()), *(r.teacher or ()))
    widths = [layer.width for layer in layers if isinstance(layer, Dense)]
    widths += [layer.channels for layer in layers if isinstance(layer, Convolution)]
    kernels = [k for layer in layers if isinstance(layer, Convolution) for k in layer.kernel]
    d = r.distillation
    return [
        (
            bool(r.name) and r.name.replace("-", "").isalnum(),
            f"name {r.name!r} is not letters, digits and dashes",
        ),
        (2 <= len(r.classes) <= CLASSES_MAX, f"it has {len(r.classes)} classes, not 2 to {CLASSES_MAX}"),
        (len(layers) <= LAYERS_MAX, f"it has more than {LAYERS_MAX} layers"),
        (all(0 < w <= WIDTH_MAX for w in widths), f"a layer is not 1 to {WIDTH_MAX} wide"),
        (all(k % 2 == 1 for k in kernels), "a kernel has an even extent"),
        (all(0 < t.epochs <= EPOCHS_MAX for t in trainings), f"epochs are not 1 to {EPOCHS_MAX}"),
        (all(0 < t.batch <= BATCH_MAX for t in trainings), f"a batch is not 1 to {BATCH_MAX}"),
        (all(t.learning_rate > 0 <= t.weight_decay for t in trainings), "a learning rate is not positive"),
        (d.temperature > 0 and 0 <= d.weight <= 1, "temperature is not positive, or weight not 0 to 1"),
        (0 < d.members <= MEMBERS_MAX, f"the teacher does not have 1 to {MEMBERS_MAX} members"),
        (
            0 < len(set(r.seeds)) == len(r.seeds) <= SEEDS_MAX,
            f"seeds are not 1 to {SEEDS_MAX} different ones",
        ),
    ]


def _checked(parts: Mapping[str, Examples], recipe: Recipe) -> Mapping[str, Examples]:
    for part, examples in parts.items():
        inputs, classes = examples.inputs, examples.classes
        wrong = ""
        if not 0 < len(classes) <= EXAMPLES_MAX or len(inputs) != len(classes):
            wrong = f"has {len(inputs)} inputs and {len(classes)} classes, not 1 to {EXAMPLES_MAX} of both"
        elif inputs.dtype != np.float32 or inputs.ndim not in (2, 4):
            form = "float32 (n, features) or (n, channels, rows, columns)"
            wrong = f"has inputs {inputs.dtype}{list(inputs.shape)}, not {form}"
        elif not np.isfinite(inputs).all():
            wrong = "has inputs that are not finite"
        elif classes.min() < 0 or classes.max() >= len(recipe.classes):
            wrong = f"has classes outside 0 to {len(recipe.classes) - 1}"
        elif inputs.shape[1:] != next(iter(parts.values())).inputs.shape[1:]:
            wrong = "has inputs of another shape than the first part"
        if wrong:
            raise DataError(
                "learning.examples",
                f"the part {part!r} of {recipe.name} cannot be used",
                why=f"it {wrong}",
                next_step="correct the recipe's data function",
            )
    return parts


def _wrong(path: Path, why: str) -> DataError:
    return DataError(
        "learning.recipe",
        f"{path} gives no recipe that can be used",
        why=why,
        next_step="compare it with examples/feeder/fault_recipe.py and docs/reference/models.md",
    )

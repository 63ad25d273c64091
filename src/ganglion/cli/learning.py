"""``ganglion model``: small networks from a recipe: teacher, student, int8, gate, C."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson
import typer

from ganglion.core.errors import DataError
from ganglion.core.units import format_bytes
from ganglion.host.system import system_host
from ganglion.kernels.networks.stored import kept_layers, layers_file
from ganglion.learning import card, course, kept
from ganglion.learning.c_files import c_files, symbol_of
from ganglion.learning.footprint import Footprint, board, footprint
from ganglion.learning.gate import findings
from ganglion.learning.int8_network import Int8Network
from ganglion.learning.onnx_runtime import runtime_version
from ganglion.learning.recipe import Examples, Recipe, examples_of, load_recipe

EVALUATED_MAX = 2000
"""Examples per part whose integers are compared with ONNX Runtime's, frame by frame."""

model = typer.Typer(no_args_is_help=True, help="Small networks: train, distill, quantize, evaluate, compile.")

RecipeFile = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A Python file with a recipe, e.g. fault_recipe.py.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Where everything goes (default: build/models/NAME)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
NetworkFile = Annotated[
    Path | None, typer.Option("--network", metavar="FILE", help="This ONNX file instead of what was made.")
]


@dataclass(frozen=True)
class _Bench:
    """A recipe, its examples and its directory."""

    recipe: Recipe
    directory: Path
    parts: Mapping[str, Examples]

    @staticmethod
    def open(file: Path, out: Path | None, who: str | None = None) -> _Bench:
        """Raises ``learning.layers`` for a recipe without the network ``who``, before any data are made."""
        recipe = load_recipe(file)
        if who is not None:
            course.layers_of(recipe, who)
        directory = _directory(out, recipe.name)
        parts = examples_of(recipe, directory)
        return _Bench(recipe, directory, parts)

    def file(self, name: str) -> Path:
        return self.directory / name


@model.command("train")
def train_command(recipe_file: RecipeFile, out: Out = None, as_json: AsJson = False) -> None:
    """Train the teacher, and say how good it is."""
    bench = _Bench.open(recipe_file, out, "teacher")
    for part in ("train", "check"):
        _part(bench, part)
    members = course.teacher(bench.recipe, bench.parts)
    measures = course.measured(course.teaching(members), bench.recipe, bench.parts, bench.directory)
    content = kept.dump(bench.recipe, "teacher", bench.parts["train"], members, measures)
    _keep(bench.file("teacher.npz"), content)
    facts = {"members": len(members), "parameters": sum(m.parameters for m in members), "measures": measures}
    _print(
        facts,
        f"teacher of {len(members)} members, {facts['parameters']:,} parameters\n{_table(measures)}"
        f"  kept    {bench.file('teacher.npz')}\n",
        as_json=as_json,
    )


@model.command("distill")
def distill_command(recipe_file: RecipeFile, out: Out = None, as_json: AsJson = False) -> None:
    """Train a student from every seed, with the teacher and alone; keep the best of those with it."""
    bench = _Bench.open(recipe_file, out, "student")
    _part(bench, "check")
    recipe, data = bench.recipe, _part(bench, "train")
    layers = course.layers_of(recipe, "teacher")
    members, _ = kept.load(bench.file("teacher.npz"), recipe, "teacher", layers, data)
    pairs = course.students(recipe, bench.parts, members, bench.directory)
    best = course.chosen(recipe, pairs)
    facts = card.learning_facts(recipe, pairs, best.seed) | {"measures": best.distilled_measures}
    _keep(bench.file("student.npz"), kept.dump(recipe, "student", data, [best.distilled], facts))
    lines = [
        f"{len(pairs)} seeds, student of {best.distilled.parameters:,} parameters; median (least to largest)\n"
    ]
    lines += [f"  {'measure':28}{'alone':>28}{'distilled':>28}{'gain at a seed':>40}\n"]
    for name, both in facts["comparison"].items():
        texts = [_spread(both[who], signed=who == "gain") for who in ("alone", "distilled", "gain")]
        lines.append(f"  {name:28}{texts[0]:>28}{texts[1]:>28}{texts[2]:>40}\n")
    lines.append(f"  kept    seed {best.seed} (best by {recipe.select}) in {bench.file('student.npz')}\n")
    _print(facts, "".join(lines), as_json=as_json)


@model.command("quantize")
def quantize_command(recipe_file: RecipeFile, out: Out = None, as_json: AsJson = False) -> None:
    """Bring the student to int8, compare it with ONNX Runtime, and let it through the gate or not.

    What leaves is NAME.onnx with its model card NAME.json.
    """
    bench = _Bench.open(recipe_file, out, "student")
    recipe, data = bench.recipe, _part(bench, "train")
    layers = course.layers_of(recipe, "student")
    [student], facts = kept.load(bench.file("student.npz"), recipe, "student", layers, data)
    network = course.int8_of(student, recipe, bench.parts)
    measures = course.measured(network, recipe, bench.parts, bench.directory)
    before: Any = facts.pop("measures")
    measures["quantisation_loss"] = before["accuracy.check"] - measures["accuracy.check"]
    sizes = _footprint(network, recipe.gate.target, bench.directory)
    found = findings(recipe.gate, measures, sizes)
    differing = _differing(network, bench.parts)
    content = card.card(
        recipe,
        network,
        bench.parts,
        learnt=facts,
        float_measures=before,
        measures=measures,
        differing=differing,
        sizes=sizes,
        gate=found,
    )
    text = _table(measures) + _sizes(sizes) + "".join(f"  gate    {f.line()}\n" for f in found)
    if differing or not all(f.held for f in found):
        missed = [f.line() for f in found if not f.held]
        missed += [f"{differing} integers differ from ONNX Runtime's"] if differing else []
        if not as_json:
            sys.stdout.write(text)
        raise DataError(
            "learning.gate",
            f"{recipe.name} does not pass its gate; nothing was written",
            why="; ".join(missed),
            next_step="train longer, widen the student, or lower the bound in the recipe"
            + (f"; install {', '.join(sizes.missing)}" if sizes.missing else ""),
        )
    _keep(bench.file(f"{recipe.name}.onnx"), network.content)
    _keep(bench.file(f"{recipe.name}.json"), card.dumps(content))
    beside = layers_file(bench.file(f"{recipe.name}.onnx"))
    _keep(beside, kept_layers(network.network, network.content))
    _print(content, f"{text}  network {bench.file(recipe.name + '.onnx')}, with its card\n", as_json=as_json)


@model.command("evaluate")
def evaluate_command(
    recipe_file: RecipeFile, network: NetworkFile = None, out: Out = None, as_json: AsJson = False
) -> None:
    """Measure an int8 network on the recipe's data, with the integers every tier computes."""
    bench = _Bench.open(recipe_file, out)
    found, where = _network(bench.recipe, recipe_file, bench.directory, network)
    measures = course.measured(found, bench.recipe, bench.parts, bench.directory)
    differing = None if runtime_version() is None else _differing(found, bench.parts)
    counts = {
        part: int(np.sum(found(examples.inputs).argmax(1) == examples.classes))
        for part, examples in bench.parts.items()
    }
    facts: dict[str, Any] = {"network": where, "sha256": found.digest, "measures": measures, "right": counts}
    facts["onnx_runtime_differing_integers"] = differing
    compared = "not compared: onnxruntime is not installed" if differing is None else f"{differing}"
    rights = "".join(f"  right   {part}: {n} of {len(bench.parts[part])}\n" for part, n in counts.items())
    text = f"{where}\n{rights}{_table(measures)}  integers that differ from ONNX Runtime's: {compared}\n"
    _print(facts, text, as_json=as_json)


@model.command("compile")
def compile_command(
    source: Annotated[
        Path, typer.Argument(metavar="RECIPE|FILE.onnx", help="A recipe, or a quantised network.")
    ],
    network: NetworkFile = None,
    target: Annotated[
        str, typer.Option("--target", help="A Cortex-M: what the sizes are of.")
    ] = "cortex-m4f",
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Write a network as C with a header, beside its ONNX file and card, and say what it needs on a target."""
    chip = board(target)
    if source.suffix == ".onnx":
        name, recipe = source.stem, None
        directory = _directory(out, name)
        found, where = Int8Network.read(_content(source)), str(source)
    else:
        recipe = load_recipe(source)
        name, directory = recipe.name, _directory(out, recipe.name)
        found, where = _network(recipe, source, directory, network)
    symbol = symbol_of(name)
    sizes = _footprint(found, chip.name, directory)
    facts = _card_beside(Path(where), found) or {"card": card.CARD_VERSION, "name": name}
    classes = facts.get("network", {}).get("classes") or (recipe.classes if recipe else ())
    facts |= {
        "network": card.network_facts(found, classes),
        "footprint": asdict(sizes),
        "tools": card.tools(),
    }
    files = {k: v.encode() for k, v in c_files(found.network, name).items()}
    files |= {f"{symbol}.onnx": found.content, f"{symbol}.json": card.dumps(facts)}
    files[layers_file(Path(f"{symbol}.onnx")).name] = kept_layers(found.network, found.content)
    room = directory / "c"
    for file, content in files.items():
        _keep(room / file, content)
    listed = ", ".join(sorted(files))
    _print(
        facts | {"files": str(room)}, f"{where}\n{_sizes(sizes)}  files   {room}: {listed}\n", as_json=as_json
    )


def _part(bench: _Bench, part: str) -> Examples:
    if part not in bench.parts:
        raise DataError(
            "learning.examples",
            f"the recipe {bench.recipe.name} gives no part {part!r}",
            why=f"its data has {', '.join(bench.parts)}",
            next_step="let its data function give train, and check to choose the seed by",
        )
    return bench.parts[part]


def _network(recipe: Recipe, file: Path, directory: Path, given: Path | None) -> tuple[Int8Network, str]:
    """The network that was named, else what was made here, else the recipe's own; and where it is from."""
    made = directory / f"{recipe.name}.onnx"
    if given is None and made.is_file():
        given = made
    if given is None and callable(recipe.network):
        return Int8Network.read(recipe.network()), f"the network of {file}"
    if given is None and isinstance(recipe.network, str):
        given = file.parent / recipe.network
    if given is None:
        raise DataError(
            "learning.kept",
            f"there is no network of {recipe.name}",
            why=f"{made} does not exist, and the recipe names no file",
            next_step="ganglion model train, distill, quantize, in this order",
        )
    return Int8Network.read(_content(given)), str(given)


def _card_beside(network: Path, found: Int8Network) -> dict[str, Any] | None:
    file = network.with_suffix(".json")
    if not file.is_file():
        return None
    held = card.loads(_content(file), str(file))
    return held if held["network"].get("sha256") == found.digest else None


def _differing(network: Int8Network, parts: Mapping[str, Examples]) -> int:
    return sum(course.differing(network, examples.inputs[:EVALUATED_MAX]) for examples in parts.values())


def _footprint(network: Int8Network, target: str, directory: Path) -> Footprint:
    """On random frames: how long an int8 network takes hardly depends on them."""
    frames = np.random.default_rng(1).integers(-128, 128, (4, *network.network.input_shape)).astype(np.int8)
    host = system_host(directory, 1)
    return footprint(network.network, frames, board(target), directory / "images", host.processes)


def _directory(out: Path | None, name: str) -> Path:
    directory = (out or Path("build/models") / name).resolve()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(directory, error) from error
    return directory


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(
            "learning.file",
            f"{file} cannot be read",
            why=error.strerror or str(error),
            next_step="name a file that exists",
        ) from error


def _keep(file: Path, content: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    except OSError as error:
        raise _unwritable(file, error) from error


def _unwritable(file: Path, error: OSError) -> DataError:
    return DataError(
        "cli.out",
        f"{file} cannot be written",
        why=error.strerror or str(error),
        next_step="name another directory with --out",
    )


def _table(measures: Mapping[str, float]) -> str:
    return "".join(f"  {name:34}{value:12.6g}\n" for name, value in measures.items())


def _spread(spread: Mapping[str, float], *, signed: bool) -> str:
    sign = "+" if signed else ""
    parts = [format(spread[k], f"{sign}.4g") for k in ("median", "least", "largest")]
    return f"{parts[0]} ({parts[1]} to {parts[2]})"


def _sizes(sizes: Footprint) -> str:
    flash = "?" if sizes.flash_bytes is None else format_bytes(sizes.flash_bytes)
    stack = "?" if sizes.stack_bytes is None else f"{sizes.stack_bytes} bytes"
    steps = "?" if sizes.instructions is None else f"{sizes.instructions:,}"
    missing = "".join(f"  not measured: {m} is not installed\n" for m in sizes.missing)
    return (
        f"  {sizes.target}: flash {flash}, RAM {format_bytes(sizes.ram_bytes)} and stack {stack}, "
        f"{steps} instructions per frame\n{missing}"
    )


def _print(facts: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    option = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    sys.stdout.write(orjson.dumps(facts, option=option).decode() if as_json else text)

"""What the feeder's network is worth: against the rule at any of its levels, on weak faults, and what a teacher adds.

python benchmarks/learning/run.py [--json FILE] [--quick] [--out DIR]

1. Recall and false trips on harder simulated events of buses nothing was learned from: the rule with its pick-up levels
   multiplied, the decision with its network at several levels of being sure.
2. The same two on IEEE-123 feeders (where GANGLION_SHARED_DATA has their phasors): the change that a fault makes is
   divided by 1 to 50, as more resistance would; other events stay as they are.
3. Students with and without a teacher from all labelled events and from every 20th (needs PyTorch; not with --quick).
4. Keyword spotting by `ganglion model evaluate` (where its folder is at hand).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "feeder"))

import classify  # after the path that finds the example
import detect
import fault_recipe as fault
import generate
import keyword_spotting
import score

import ganglion as gg
from ganglion.core.errors import DataError
from ganglion.kernels.loading import load
from ganglion.kernels.running import runner_of
from ganglion.learning import course, kept
from ganglion.learning.int8_network import Int8Network
from ganglion.learning.recipe import Examples

FEEDER = Path(__file__).parents[2] / "examples" / "feeder"
RULE_LEVELS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
SURES = ((1, 6), (0, 6), (2, 6), (4, 6), (1, 1), (1, 3), (1, 10), (1, 1e6))
"""How sure the network has to be to trip where the rule sees nothing, and to overrule the rule where it does."""
DIVISORS = (1, 2, 5, 10, 20, 50)
LEVELS = ("PICKUP_AMP", "PICKUP_SHARE", "PICKUP_STEP_SHARE", "RISE_AMP", "RISE_SHARE", "DIP_RISE_SHARE")
FEW = 20


@contextmanager
def levels(factor: float) -> Iterator[None]:
    """The rule with its two-frame levels multiplied."""
    before = {name: getattr(detect, name) for name in LEVELS}
    for name, value in before.items():
        setattr(detect, name, value * factor)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(detect, name, value)


def rule_outcome(folder: Path, factor: float, room: Path) -> dict[str, float]:
    """The rule alone on a folder, its levels multiplied, as `fault_recipe.outcome` counts."""
    with levels(factor):
        decide = gg.kernel(f=fault.features, state=detect.STATE)(detect.decide)
    libraries = load([fault.features, decide], room / "libraries")
    first, second = runner_of(fault.features, libraries), runner_of(decide, libraries)
    waves, _ = score.read_events(folder)
    trips = []
    for wave in waves:
        frames = score.shot(wave)[: fault.LEAD_FRAMES + fault.FRAMES]
        seen = first.rows({"frame": frames}, first.fresh()).columns
        trips.append(np.array(second.rows(seen, second.fresh()).columns["trip"][fault.LEAD_FRAMES :]))
    played = fault.play(folder)
    return fault.outcome(replace(played, signals={"armed": np.ones(np.shape(trips), bool)}), np.stack(trips))


def network_outcome(
    played: fault.Played, logits: np.ndarray, sure: float, overrule: float
) -> dict[str, float]:
    """The decision with its network, at other levels of being sure."""
    before = classify.SURE, classify.OVERRULE
    classify.SURE, classify.OVERRULE = sure, overrule
    try:
        return fault.outcome(played, fault.network_trips(played, logits))
    finally:
        classify.SURE, classify.OVERRULE = before


def answered(network: Int8Network, played: fault.Played) -> np.ndarray:
    return network(played.x.reshape(-1, played.x.shape[-1])).reshape(*played.x.shape[:2], -1)


def line(who: str, found: dict[str, float], played: fault.Played) -> str:
    faults = int(played.faults.sum())
    others = len(played.kinds) - faults
    return (
        f"  {who:28} recall {int(found['caught']):4} / {faults}, false trips {int(found['false_trips']):3} / {others}"
        f", median {found['latency_ms']:.1f} ms"
    )


def against_the_rule(network: Int8Network, room: Path) -> list[dict[str, Any]]:
    played = fault.simulated(room, "dev-hard")
    logits, rows = answered(network, played), []
    print("harder events, buses of dev")
    for factor in RULE_LEVELS:
        found = rule_outcome(room / "data" / "dev-hard", factor, room)
        print(line(f"rule, levels x {factor:g}", found, played))
        rows.append({"what": "dev-hard", "who": "rule", "level": factor} | found)
    for sure, overrule in SURES:
        found = network_outcome(played, logits, sure, overrule)
        print(line(f"with network, {sure:g} and {overrule:g}", found, played))
        rows.append({"what": "dev-hard", "who": "network", "sure": sure, "overrule": overrule} | found)
    kinds = logits[..., 1:].argmax(-1) + 1
    late = played.overlap() >= 2 * detect.SAMPLES
    faulted = played.faults[:, None] & late & (logits[..., 1:].max(-1) > logits[..., 0])
    named = float((kinds == played.kinds[:, None])[faulted].mean())
    print(
        f"  of faulted frames it takes for such, from the second cycle on, it names the phases of {named:.3f}"
    )
    return [*rows, {"what": "dev-hard", "who": "network", "named": named}]


def weak_recordings(folder: Path, divisor: int, out: Path) -> Path:
    """Events of the IEEE-123 phasors with our waveforms, what a fault changes divided; written once."""
    if (out / "labels.csv").is_file():
        return out
    with np.load(folder / "events.npz") as file:
        before, after = (file[name][:, :6].astype(complex) for name in ("phasor_pre", "phasor_post"))
    _, labels = score.read_events(folder)
    rng = np.random.default_rng(123)
    waves = []
    for pre, post, label in zip(before, after, labels, strict=True):
        step = (post - pre) / (divisor if label["is_fault"] == "1" else 1)
        event = generate.Event(pre[:3], pre[3:], step[:3], step[3:], float(rng.uniform(0.008, 0.035)), 0.5)
        start = int(label["inception_sample"])
        counts = generate.waveform(event, start, rng) / np.array([[0.25]] * 3 + [[1.0]] * 3)
        waves.append(np.clip(np.rint(counts), -32768, 32767).astype(np.int16))  # as the recorder saturates
    rows = [tuple(label[name] for name in generate.COLUMNS.split(",")) for label in labels]
    return generate._write(out, np.stack(waves), rows)


def weak_faults(network: Int8Network, room: Path) -> list[dict[str, Any]]:
    root = Path(os.environ.get("GANGLION_SHARED_DATA", "../shared/data")) / "ieee123_fault_waveforms"
    if not root.is_dir():
        print(f"weak faults on IEEE-123: left out, {root} is not there")
        return []
    rows = []
    print(
        "IEEE-123 phasors, what a fault changes divided: caught and false trips of the rule, and with the network"
    )
    for part in ("train", "dev"):
        for divisor in DIVISORS:
            played = fault.play(weak_recordings(root / part, divisor, room / "weak" / f"{part}-{divisor}"))
            rule = fault.outcome(played, fault.rule_trips(played))
            both = fault.outcome(played, fault.network_trips(played, answered(network, played)))
            counts = [f"{f['caught']:.0f} and {f['false_trips']:.0f}" for f in (rule, both)]
            faults = int(played.faults.sum())
            print(
                f"  {part:6}/ {divisor:<3} of {faults} and {len(played.kinds) - faults}: "
                f"rule {counts[0]}, with network {counts[1]}"
            )
            about = {"what": "ieee123", "part": part, "divisor": divisor}
            rows += [about | {"who": "rule"} | rule, about | {"who": "network"} | both]
    return rows


def fewer(played: fault.Played) -> fault.Played:
    """Every 20th event."""
    signals = {name: values[::FEW] for name, values in played.signals.items()}
    return fault.Played(played.x[::FEW], signals, played.kinds[::FEW], played.inceptions[::FEW])


def with_and_without_a_teacher(room: Path) -> list[dict[str, Any]]:
    if find_spec("torch") is None:
        print("students: left out, torch is not installed")
        return []
    recipe, parts = replace(fault.recipe, measures=None), fault.data(room)
    teacher = room / "teacher.npz"
    layers = course.layers_of(recipe, "teacher")
    try:
        members, _ = kept.load(teacher, recipe, "teacher", layers, parts["train"])
    except DataError:
        members = course.teacher(recipe, parts)
        teacher.write_bytes(kept.dump(recipe, "teacher", parts["train"], members, {}))
    few = fault.examples(*(fewer(fault.simulated(room, name)) for name in ("train-hard", "train-plain")))
    longer = replace(recipe, training=replace(recipe.training, epochs=10 * recipe.training.epochs))
    rows = []
    for name, given, how in ((f"every {FEW}th event", few, longer), ("all", parts["train"], recipe)):
        pairs = course.students(how, _with(parts, given), members, room)
        print(f"students from {name}: {len(given)} frames, {len(pairs)} seeds; median (least to largest)")
        for measure, both in course.comparison(pairs).items():
            if measure.partition(".")[2] not in ("check", "dev-hard"):
                continue
            texts = [f"{who} {s.median:.4f} ({s.least:.4f} to {s.largest:.4f})" for who, s in both.items()]
            print(f"  {measure:20} {', '.join(texts)}")
            spreads = {who: asdict(s) for who, s in both.items()}
            rows.append({"what": f"students, {name}", "measure": measure} | spreads)
    return rows


def _with(parts: dict[str, Examples], given: Examples) -> dict[str, Examples]:
    return {"train": given, "check": parts["check"], "dev-hard": parts["dev-hard"]}


def keywords(room: Path) -> list[dict[str, Any]]:
    try:
        parts = keyword_spotting.data(room)
    except DataError as error:
        print(f"keyword spotting: left out, {error.what}")
        return []
    network = Int8Network.read(keyword_spotting.mlperf.keyword_spotting())
    rows = []
    for part, examples in parts.items():
        right = int(np.sum(network(examples.inputs).argmax(1) == examples.classes))
        differing = course.differing(network, examples.inputs)
        print(
            f"keyword spotting, {part}: {right} / {len(examples)}, {differing} integers differ from ONNX Runtime's"
        )
        rows.append({"what": "keywords", "part": part, "right": right, "differing": differing})
    return rows


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="without training")
    parser.add_argument("--out", type=Path, default=Path("build/models/fault"), metavar="DIR")
    arguments = parser.parse_args()
    room = arguments.out.resolve()
    network = Int8Network.read((FEEDER / "fault.onnx").read_bytes())
    rows = against_the_rule(network, room) + weak_faults(network, room)
    if not arguments.quick:
        rows += with_and_without_a_teacher(room)
    rows += keywords(room)
    if arguments.json:
        stamp = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "network": network.digest}
        with Path(arguments.json).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(stamp | row) + "\n" for row in rows)


if __name__ == "__main__":
    main()

"""Which of a plan's figures were measured and which are the topology's own, class by class, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ganglion.core.calibration import figures_of
from ganglion.core.topology import Topology
from ganglion.flow.spec import FlowSpec
from ganglion.placement.measured import stale_streams, streams
from ganglion.placement.planner import lay_out
from ganglion.placement.prediction import Origin, origin_of

_WORDS = {
    "measured": "measured",
    "counted": "instructions counted",
    "stale": "ignored, since the stage computes something else than when it was measured",
    "declared": "from topology.yaml",
}


@dataclass(frozen=True, slots=True)
class ClassOrigins:
    """One node class: where each stage's figure comes from, and which figures of its messages were measured.

    ``measured_on`` is empty without a calibration.
    """

    name: str
    measured_on: str
    stages: Mapping[str, Origin]
    messages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Origins:
    """Of all classes that some node or device has; ``streams`` and ``stale``: used and ignored figures of streams."""

    classes: tuple[ClassOrigins, ...]
    streams: tuple[str, ...]
    stale: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)

    def text(self) -> str:
        """A few lines per class, for people."""
        lines = ["where the figures come from"]
        for one in self.classes:
            lines.append(f"  {one.name}: {one.measured_on or 'not calibrated, all from topology.yaml'}")
            if not one.measured_on:
                continue
            for origin, words in _WORDS.items():
                if stages := [s for s, o in one.stages.items() if o == origin]:
                    lines.append(f"    {words}: {', '.join(stages)}")
            lines.append(f"    messages: {'measured' if one.messages else 'from topology.yaml'}")
        if self.streams:
            lines.append(f"  streams measured: {', '.join(self.streams)}")
        if self.stale:
            lines.append(f"  streams ignored, since they are made another way now: {', '.join(self.stale)}")
        if any("stale" in one.stages.values() for one in self.classes) or self.stale:
            lines.append("  measure again: ganglion calibrate FLOW_DIR")
        return "\n".join(lines) + "\n"


def origins(spec: FlowSpec, topology: Topology) -> Origins:
    """Of the figures that `plan` uses for this flow on this topology."""
    ground = lay_out(spec, topology, {})
    digests = {stage: load.digest for (stage, _), load in ground.loads.items() if spec[stage].inputs}
    found: dict[str, ClassOrigins] = {}
    for spot in ground.spots().values():
        if spot.class_name not in found:
            known = figures_of(spot.node_class)
            stages = {s: origin_of(d, s, spot) for s, d in digests.items()}
            messages = tuple(known.hop.model_dump(exclude_none=True)) if known else ()
            where = known.measured_on if known else ""
            found[spot.class_name] = ClassOrigins(spot.class_name, where, stages, messages)
    return Origins(tuple(found.values()), tuple(streams(spec, topology)), stale_streams(spec, topology))

"""What was measured of a topology's node classes: the file ``calibration.json`` beside ``topology.yaml``.

``ganglion calibrate`` writes it, placement reads it. Stages are named by what they compute (a digest), so a figure
of a kernel that was changed since is never taken for the new one's. Times are nanoseconds.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ganglion.core.errors import TopologyError
from ganglion.core.topology import CLASSES_MAX, Id, NodeClass, Topology

FILE = "calibration.json"
TEXT_BYTES_MAX = 16 << 20
FIGURES_MAX = 10_000
NS_MAX = 3.6e12
"""An hour: no call of a stage takes longer."""

Ns = Annotated[float, Field(ge=0, le=NS_MAX, allow_inf_nan=False)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Fact = Annotated[str, Field(max_length=400)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Spread(_Frozen):
    """The median of ``count`` values, and the least and greatest of them."""

    median: Ns
    low: Ns
    high: Ns
    count: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _ordered(self) -> Spread:
        if not self.low <= self.median <= self.high:
            raise ValueError(f"the median {self.median:g} is not between {self.low:g} and {self.high:g}")
        return self


class StageFigures(_Frozen):
    """One stage on one class: ``call_ns`` of a call however many rows it has, and ``row_ns`` of each row in it.

    ``warm_ns``: a call with one row in a loop without pause, which is what the caches make of it at best.
    ``instructions``: of one row, where they were counted for a microcontroller instead of timed; the class says how
    long one takes. ``flash_bytes``, ``ram_bytes``: of the stage's kernel in an image, where it was linked.
    ``energy_nj``: nanojoule of one row above idle, where someone put a meter to it.
    """

    stage: Name
    call_ns: Spread | None = None
    row_ns: Spread | None = None
    warm_ns: Spread | None = None
    instructions: Spread | None = None
    flash_bytes: Annotated[int, Field(ge=0)] | None = None
    ram_bytes: Annotated[int, Field(ge=0)] | None = None
    energy_nj: Spread | None = None


class HopFigures(_Frozen):
    """What messages take on a class, beyond the stages.

    Of a reflex's loop (elapsed time): ``wake_ns``: from a frame's last sample until its device looks at it;
    ``send_ns``: from there until the datagram has left; ``receive_ns``: from a datagram's sending until the program at
    the other end has it, over a link without latency; ``react_ns``: from there until the command has left a gateway;
    ``obey_ns``: from its receipt until the actuator is told. Of a processor: ``message_ns``: receiving one message,
    with decoding, journal and what it makes leave; for devices ``frame_ns``: one frame, with whatever is sent for it.
    ``own_cpus``: processors that the node's own program keeps busy without any message.
    """

    wake_ns: Spread | None = None
    send_ns: Spread | None = None
    receive_ns: Spread | None = None
    react_ns: Spread | None = None
    obey_ns: Spread | None = None
    message_ns: Spread | None = None
    frame_ns: Spread | None = None
    own_cpus: Annotated[float, Field(ge=0, le=10_000, allow_inf_nan=False)] | None = None


class ClassFigures(_Frozen):
    """One node class: where it was measured, its stages by what they compute, and its messages."""

    measured_on: Fact
    stages: Annotated[dict[Digest, StageFigures], Field(max_length=FIGURES_MAX)] = {}
    hop: HopFigures = HopFigures()

    def names(self) -> frozenset[str]:
        """The stages' names when they were measured."""
        return frozenset(f.stage for f in self.stages.values())


class StreamFigures(_Frozen):
    """What data made of a stream in a run: its rows in an uplink's messages.

    ``digest``: of the whole chain that makes the stream. ``share``: for a `where`, of its rows that passed.
    """

    digest: Digest
    share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    row_bytes: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None = None
    """Bytes of an uplink's message per row of it, without what is once per message."""


class Calibration(_Frozen):
    """The whole file. ``measured_at``: UTC, as ISO 8601; ``machine``: facts that the figures depend on."""

    model_config = ConfigDict(populate_by_name=True)

    format: Annotated[Literal[1], Field(alias="calibration")]
    flow: Name
    measured_at: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    machine: Annotated[dict[Name, Fact], Field(max_length=40)]
    classes: Annotated[dict[Id, ClassFigures], Field(max_length=CLASSES_MAX)] = {}
    streams: Annotated[dict[Name, StreamFigures], Field(max_length=FIGURES_MAX)] = {}

    def dumps(self) -> str:
        """Stable JSON: the same calibration gives the same text."""
        return self.model_dump_json(by_alias=True, exclude_none=True, indent=1) + "\n"


def read_calibration(content: bytes, file: str) -> Calibration:
    """The calibration that ``content`` holds; ``file`` is its name in messages.

    Raises `TopologyError` ``topology.calibration`` for anything else.
    """
    if len(content) > TEXT_BYTES_MAX:
        raise _refused(file, f"it is larger than {TEXT_BYTES_MAX} bytes")
    try:
        return Calibration.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise _refused(file, f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None


def _refused(file: str, why: str) -> TopologyError:
    return TopologyError(
        "topology.calibration",
        f"{file} is not a calibration",
        why=why,
        next_step="remove it to plan with the topology's own figures, or measure again: ganglion calibrate FLOW_DIR",
    )


def calibrated(topology: Topology, calibration: Calibration) -> Topology:
    """The topology whose classes know what was measured of them. Classes that it does not have are refused.

    Raises `TopologyError` ``topology.calibration-class``.
    """
    unknown = [name for name in calibration.classes if name not in topology.classes]
    if unknown:
        raise TopologyError(
            "topology.calibration-class",
            f"{FILE} speaks of {', '.join(unknown)}",
            why=f"the topology's classes are {', '.join(topology.classes)}",
            next_step="measure again: ganglion calibrate FLOW_DIR",
        )
    classes = {name: _with(kind, calibration.classes.get(name)) for name, kind in topology.classes.items()}
    copy = topology.model_copy(update={"classes": classes})
    copy._streams = calibration.streams
    return copy


def _with(kind: NodeClass, figures: ClassFigures | None) -> NodeClass:
    copy = kind.model_copy()
    copy._figures = figures
    return copy


def kept_figures(before: Topology, after: Topology) -> Topology:
    """``after`` with what was measured of ``before``, where a class is the same in both."""
    declared = {name: kind.model_dump() for name, kind in after.classes.items()}
    same = {n: figures_of(kind) for n, kind in before.classes.items() if declared.get(n) == kind.model_dump()}
    classes = {name: _with(kind, same.get(name)) for name, kind in after.classes.items()}
    copy = after.model_copy(update={"classes": classes})
    copy._streams = before._streams
    return copy


def streams_of(topology: Topology) -> dict[str, StreamFigures]:
    """What was measured of a flow's streams, of a calibrated topology; empty without."""
    streams: dict[str, StreamFigures] = topology._streams or {}
    return streams


def figures_of(kind: NodeClass) -> ClassFigures | None:
    """What was measured of a class of a calibrated topology."""
    figures: ClassFigures | None = kind._figures
    return figures

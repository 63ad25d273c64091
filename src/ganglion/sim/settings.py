"""What a local run is asked to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ganglion.agent.inputs import RECORDING_BYTES_MIN
from ganglion.core.errors import GanglionError, RunError
from ganglion.core.topology import Topology
from ganglion.core.units import parse_duration_ns
from ganglion.device.emulation import RunsAs

RUN_NS_MAX = 24 * 3600 * 10**9
CUTS_MAX = 100
_CUT = re.compile(r"([a-z][a-z0-9]*)@([0-9.]+[a-z]+)-([0-9.]+[a-z]+)")


@dataclass(frozen=True, slots=True)
class Cut:
    """The uplink of a site is cut from ``from_ns`` to ``to_ns`` after the devices begin to play."""

    site: str
    from_ns: int
    to_ns: int


@dataclass(frozen=True, slots=True)
class Settings:
    """One run. ``data_dir`` None: the flow's own generator makes the recordings, from ``seed``.

    ``devices_as``: what emulated devices run, see `DeviceHostConfig`; None: boards where they can be emulated in time.
    ``rest_ns``: how long the sites idle first. ``recording_bytes_max``: what each
    gateway keeps of its inputs, 0 for nothing.
    """

    flow_dir: Path
    run_dir: Path
    duration_ns: int
    cuts: tuple[Cut, ...] = ()
    devices: int | None = None
    data_dir: Path | None = None
    pins: Mapping[str, str] = field(default_factory=dict)
    seed: int = 7
    devices_as: RunsAs | None = None
    rest_ns: int = 0
    recording_bytes_max: int = 0


def parse_cut(text: str) -> Cut:
    """``gw1@10s-25s``; raises `RunError` ``run.cut``."""
    match = _CUT.fullmatch(text.strip())
    try:
        if match is None:
            raise RunError("run.cut", "it does not have the form SITE@FROM-TO")
        cut = Cut(match.group(1), parse_duration_ns(match.group(2)), parse_duration_ns(match.group(3)))
        if cut.from_ns >= cut.to_ns:
            raise RunError("run.cut", "it ends before it begins")
    except GanglionError as error:
        raise RunError(
            "run.cut", f"--cut {text!r} cannot be used", why=error.what, next_step="write it like gw1@10s-25s"
        ) from error
    return cut


def check(settings: Settings, topology: Topology) -> None:
    """Raises `RunError` ``run.cut`` or ``run.duration`` for what cannot be done on this topology."""
    if not 0 < settings.duration_ns <= RUN_NS_MAX:
        raise RunError(
            "run.duration",
            f"a run of {settings.duration_ns / 1e9:g} s",
            why="a run lasts more than nothing and at most a day",
            next_step="write it like --for 40s",
        )
    if 0 < settings.recording_bytes_max < RECORDING_BYTES_MIN:
        raise RunError(
            "run.record",
            f"a recording of {settings.recording_bytes_max} bytes",
            why=f"it needs at least {RECORDING_BYTES_MIN} bytes, a state and what followed it",
            next_step="write it like --record 16MB",
        )
    with_uplink = [s for s, site in topology.sites.items() if site.parent is not None]
    for cut in settings.cuts:
        if cut.site not in with_uplink or cut.to_ns > settings.duration_ns or len(settings.cuts) > CUTS_MAX:
            raise RunError(
                "run.cut",
                f"the uplink of {cut.site!r} cannot be cut from {cut.from_ns / 1e9:g} s to {cut.to_ns / 1e9:g} s",
                why=f"sites with an uplink are {', '.join(with_uplink)}; "
                f"the run lasts {settings.duration_ns / 1e9:g} s",
                next_step="name one of those, and heal before the run ends: --cut gw1@10s-25s",
            )

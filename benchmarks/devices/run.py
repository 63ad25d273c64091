"""What devices cost the machine they are emulated on.

python benchmarks/devices/run.py [--quick] [--json FILE]

First the time of one frame of the feeder's firmware, by turns in one loop: compiled for this machine, on one of four
emulated Cortex-M4F boards, on one of two hundred. Then device hosts with a thousand devices that run the firmware
compiled for this machine, and with two hundred boards, a frame a second each, against a gateway that answers: what part
of a processor they take, the emulator's included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))

from ganglion.agent.config import device_host_json  # noqa: E402 # after the path that finds the tests
from ganglion.connectors.coap import Code, Endpoint, Request, Response  # noqa: E402 # see above
from ganglion.device.emulation import DeviceHostConfig, Emulation, RunsAs  # noqa: E402 # see above
from ganglion.device.firmware.boards import Boards, lacks_emulator  # noqa: E402 # see above
from ganglion.device.firmware.box import Core  # noqa: E402 # see above
from ganglion.device.firmware.build import build  # noqa: E402 # see above
from ganglion.device.firmware.hosted import HostedFirmware  # noqa: E402 # see above
from ganglion.device.firmware.warming import walk_through  # noqa: E402 # see above
from ganglion.device.player import shot_frames_min  # noqa: E402 # see above
from ganglion.device.recording import load_recording  # noqa: E402 # see above
from ganglion.flow.assignment import Assignment, origin_name  # noqa: E402 # see above
from ganglion.flow.load import load_flow  # noqa: E402 # see above
from ganglion.host.system import SystemProcesses  # noqa: E402 # see above
from ganglion.kernels.c.targets import TARGETS  # noqa: E402 # see above
from ganglion.kernels.c.toolchain import compilers  # noqa: E402 # see above
from tests.device.firmware.benches import FRAMES, Answering, assigned, core_of, stage  # noqa: E402 # see above

PATH = "gw1-relay"


def frame_times(room: Path, frames_n: int) -> list[dict[str, Any]]:
    """Median, 99 % and spread of a frame's time in microseconds, per kind of device."""
    spec, part = stage("feeder-protection")
    image = build(spec, assigned(spec, part), TARGETS["cortex-m4f"], room)
    frames = FRAMES["feeder-protection"](np.random.default_rng(1), frames_n)
    every_ns = image.firmware.measured.every_ns
    hosted = HostedFirmware.build(image.firmware, compilers()[0], room)
    emulators = {count: Boards(image, SystemProcesses(), room / "boards.txt") for count in (4, 200)}
    cores: dict[str, list[Core]] = {"firmware": [core_of(image.firmware, hosted.device()) for _ in range(4)]}
    for count, boards in emulators.items():
        walk_through(image.firmware, boards.device(), iter(frames))
        cores[f"board of {count}"] = [core_of(image.firmware, boards.device()) for _ in range(count)]
    gateways = {name: [Answering(c) for c in found] for name, found in cores.items()}
    for found in gateways.values():
        for gateway in found:
            gateway.take(0, gateway.core.start(0, ("127.0.0.1", 5683), 6, 77))
    times: dict[str, list[float]] = {name: [] for name in cores}
    for number, frame in enumerate(frames):
        now_ns = (number + 1) * every_ns
        for name, found in gateways.items():
            for gateway in found[number % len(found) :][:4]:
                core = gateway.core
                while core.next_ns < now_ns:
                    gateway.take(core.next_ns, core.poll(core.next_ns))
                began = time.perf_counter()
                records = core.frame(now_ns, number, now_ns, frame.tobytes())
                times[name].append((time.perf_counter() - began) * 1e6)
                gateway.take(now_ns, records)
    for boards in emulators.values():
        boards.close()
    return [
        {
            "devices": name,
            "frames": len(found),
            "median_us": statistics.median(found),
            "quartiles_us": statistics.quantiles(found, n=4)[::2],
            "p99_us": float(np.quantile(found, 0.99)),
            "ratio": statistics.median(found) / statistics.median(times["firmware"]),
        }
        for name, found in times.items()
    ]


def recordings(target: Path) -> Path:
    """The feeder's own."""
    generator = str(REPOSITORY / "examples" / "feeder" / "generate.py")
    subprocess.run(
        [sys.executable, generator, str(target), "--seed", "1"], check=True, stdout=subprocess.DEVNULL
    )
    return target


async def many(room: Path, seconds: float, devices: int, runs_as: RunsAs) -> dict[str, Any]:
    """A device host in a process of its own, its gateway here."""
    flow_dir = Path(__file__).parent / "slow"
    spec = load_flow(flow_dir)
    data = room / "data"
    events = load_recording(data, spec.sources[0].schema.fields[0].type)
    heard = 0

    def handle(_request: Request) -> Response:
        nonlocal heard
        heard += 1
        return Response(Code.CHANGED)

    gateway = await Endpoint.open(handler=handle, random=random.Random(1))
    runs = [s.id for s in spec.stages if s.id not in ("decisions", "cycle")]
    here = frozenset({PATH})
    exports = dict.fromkeys(("decide", "trips"), here)
    assignment = Assignment("n", "gw1", "device", spec.digest, dict.fromkeys(runs, here), exports)
    config = DeviceHostConfig(
        name="many",
        flow_dir=flow_dir,
        data_dir=data,
        kernel_dir=room / "kernels",
        gateway=gateway.address,
        actuators=frozenset({"breaker"}),
        period_frames=shot_frames_min(events),
        runs_as=runs_as,
        devices=tuple(
            Emulation(origin_name(PATH, n), assignment, n, devices, n % 60, n * 10**9 // devices)
            for n in range(devices)
        ),
    )
    state = room / runs_as
    state.mkdir()
    (state / "config.json").write_text(json.dumps(device_host_json(config)))
    with (state / "log.txt").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ganglion.agent", str(state / "config.json"), stderr=log
        )
    report = state / "report.json"
    try:
        for _ in range(600):
            if report.exists():
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(2)  # the first second's frames and what is only done once
        before, began = _processor_s(process.pid), _counted(report)
        await asyncio.sleep(seconds)
        used, ended = _processor_s(process.pid) - before, _counted(report)
        took = ended[1] - began[1]
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 120)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await gateway.close()
    last = json.loads(report.read_text())
    return {
        "devices": f"{devices} in one host, {runs_as}",
        "ran_as": last["ran_as"],
        "frames_per_s": (ended[0] - began[0]) / took,
        "processors": used / took,
        "shed": sum(s["shed"] for s in last["streams"].values()),
        "unacknowledged": sum(s["offered"] - s["acknowledged"] for s in last["streams"].values()),
        "messages": heard,
    }


def _counted(report: Path) -> tuple[int, float]:
    """Frames that the host has counted, and when it wrote so."""
    return json.loads(report.read_text())["frames"], report.stat().st_mtime


def _processor_s(pid: int) -> float:
    """What a process and its children have used."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100 + sum(_processor_s(int(child)) for child in children)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    if (lacking := lacks_emulator()) is not None:
        raise SystemExit(f"{lacking}; next: pip install 'ganglion[device,emulator]'")
    lines = []
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        for line in frame_times(room, 200 if arguments.quick else 2000):
            low, high = line["quartiles_us"]
            print(
                f"{line['devices']:14} a frame: {line['median_us']:7.1f} us ({low:.1f} to {high:.1f}), "
                f"99 % {line['p99_us']:7.1f} us, {line['ratio']:6.1f} times"
            )
            lines.append(line)
        recordings(room / "data")
        kinds: tuple[tuple[int, RunsAs], ...] = ((1000, "firmware"), (200, "board"))
        for count, runs_as in kinds:
            found = asyncio.run(many(room, 5 if arguments.quick else 20, count, runs_as))
            print(
                f"{found['devices']}: {found['frames_per_s']:.0f} frames a second, {found['processors']:.2f} "
                f"processors, {found['messages']} messages, {found['shed']} rows shed, "
                f"{found['unacknowledged']} unacknowledged"
            )
            lines.append(found)
    if arguments.json:
        stamp = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": platform.machine()}
        with Path(arguments.json).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(stamp | line) + "\n" for line in lines)


if __name__ == "__main__":
    main()

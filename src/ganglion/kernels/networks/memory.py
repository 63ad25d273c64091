"""Where values lie in working memory: each as long as it is needed, over its operand where a layer allows it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ganglion.kernels.networks.layers import Add, Convolution, Layer, Lookup, Network, sources

ALIGNMENT_BYTES = 8


@dataclass(frozen=True, slots=True)
class Room:
    """A stretch of working memory from layer ``first`` to layer ``last``."""

    bytes: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Offsets of values and of each layer's scratch; the input and the output lie where the caller says."""

    values: dict[int, int]
    scratch: dict[int, int]
    workspace_bytes: int


def plane(layer: Convolution) -> tuple[int, int]:
    """Rows and columns of a padded plane of a depthwise layer."""
    window = layer.window
    rows, columns, _ = layer.result
    even = (window.kernel[1] + 1) // 2 * 2
    reach = [d * (k - 1) + 1 for k, d in zip(window.kernel, window.dilations, strict=True)]
    high = max(layer.shape[0] + window.pads[0], (rows - 1) * window.strides[0] + reach[0])
    wide = max(layer.shape[1] + window.pads[1], (columns - 1) * window.strides[1] + max(reach[1], even))
    return high, wide


def scratch_bytes(layer: Layer) -> int:
    """Working memory beside operands and result."""
    if not isinstance(layer, Convolution) or layer.direct:
        return 0
    if layer.depthwise:
        return 2 * prod(plane(layer))
    taken = prod(layer.window.kernel) * layer.shape[2]
    padded = (taken + 3) // 4 * 4
    columns = 2 if prod(layer.result[:2]) > 1 else 1
    # Bytes are gathered first where channels do not come in fours.
    return 2 * columns * padded + (padded if layer.shape[2] % 4 else 0)


def overwrites(layer: Layer) -> tuple[int, ...]:
    """The operands over which a result may be written."""
    if isinstance(layer, Lookup):
        return (layer.source,)
    if isinstance(layer, Add):
        return (layer.source, layer.second)
    if isinstance(layer, Convolution):
        shrinks = len(layer.weights) <= layer.shape[2]
        if layer.depthwise:
            return (layer.source,) if len(layer.weights) == layer.shape[2] else ()
        return (layer.source,) if layer.pointwise and shrinks and not layer.direct else ()
    return ()


def plan(network: Network) -> Plan:
    """Places every value: largest first, each at the lowest offset that is free while it lives."""
    last = dict.fromkeys(range(len(network.layers) + 1), -1)
    for k, layer in enumerate(network.layers):
        for source in sources(layer):
            last[source] = k
    home = _homes(network, last)
    rooms: dict[tuple[str, int], Room] = {}
    for k, layer in enumerate(network.layers):
        value = k + 1
        size = scratch_bytes(layer)
        if size:
            rooms["scratch", k] = Room(size, k, k)
        if value == network.output or home[value] in (0, network.output):
            continue
        old = rooms.get(("value", home[value]))
        room = Room(network.elements(value), k, max(k, last[value]))
        if old is not None:
            room = Room(max(old.bytes, room.bytes), old.first, max(old.last, room.last))
        rooms["value", home[value]] = room
    offsets, total = _packed(rooms)
    values = {v: offsets["value", h] for v, h in home.items() if ("value", h) in offsets}
    scratch = {k: o for (kind, k), o in offsets.items() if kind == "scratch"}
    return Plan(values, scratch, total)


def _homes(network: Network, last: dict[int, int]) -> dict[int, int]:
    """The value in whose memory each value lies: its own, or that of an operand which ends there."""
    home = {0: 0}
    for k, layer in enumerate(network.layers):
        value = k + 1
        home[value] = value
        if value == network.output:
            continue
        for source in overwrites(layer):
            if source not in (0, network.output) and last[source] == k:
                home[value] = home[source]
                break
    return home


def _packed(rooms: dict[tuple[str, int], Room]) -> tuple[dict[tuple[str, int], int], int]:
    placed: dict[tuple[str, int], int] = {}
    total = 0
    for key, room in sorted(rooms.items(), key=lambda item: (-item[1].bytes, item[0])):
        taken = sorted(
            (placed[other], placed[other] + rooms[other].bytes)
            for other in placed
            if rooms[other].first <= room.last and room.first <= rooms[other].last
        )
        at = 0
        for start, end in taken:
            if at + room.bytes <= start:
                break
            at = max(at, -(-end // ALIGNMENT_BYTES) * ALIGNMENT_BYTES)
        placed[key] = at
        total = max(total, at + room.bytes)
    return placed, total

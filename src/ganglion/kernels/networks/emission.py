"""Straight C from a network: one function for a frame, one for rows of them.

The C has no heap, no library and no static data that is written; working memory is an argument, so it is re-entrant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import prod
from typing import Any, TypeAlias

import numpy as np

from ganglion.kernels.networks import layers
from ganglion.kernels.networks.layers import Array, Layer, Network
from ganglion.kernels.networks.memory import plan, plane

NETWORKS_VERSION = 2
"""Changes with every change of the C that could change a result."""
ALIGNED = "__attribute__((aligned(8)))"
ROUNDED_MAX = 2.0**21
"""A product that stays below needs no cutting before it is rounded: see gg_whole."""


@dataclass(frozen=True, slots=True)
class EmittedNetwork:
    """C source that includes ``kernel_runtime.h``, its symbols' prefix, and the memory it asks for."""

    source: str
    symbol: str
    workspace_bytes: int
    input_bytes: int
    output_bytes: int


def number(value: float) -> str:
    """A single precision constant, exactly."""
    text = f"{float(np.float32(value)).hex()}f"
    return f"({text})" if text.startswith("-") else text


class _Tables:
    """Constant arrays of one network, each once."""

    def __init__(self, symbol: str) -> None:
        self._symbol = symbol
        self._names: dict[tuple[str, bytes], str] = {}
        self.lines: list[str] = []

    def name(self, values: Array, kind: str) -> str:
        key = (kind, values.tobytes())
        if key not in self._names:
            self._names[key] = f"{self._symbol}_c{len(self._names)}"
            texts = [number(v) if kind == "float" else str(int(v)) for v in values.ravel()]
            rows = [", ".join(texts[k : k + 32]) for k in range(0, len(texts), 32)]
            body = ",\n".join(rows)
            self.lines.append(
                f"static const {kind} {self._names[key]}[{values.size}] {ALIGNED} = {{\n{body}}};"
            )
        return self._names[key]


Call: TypeAlias = tuple[str, Sequence[int | str]]


def _window(window: layers.Window) -> list[int]:
    return [*window.kernel, *window.strides, *window.pads[:2]]


def paired(weights: Array) -> Array:
    """Weights in the order in which they are read: results in pairs, four of one and four of the other in turn."""
    flat = weights.reshape(len(weights), -1)
    whole = np.zeros(((len(flat) + 1) // 2 * 2, (flat.shape[1] + 3) // 4 * 4), np.int8)
    whole[: len(flat), : flat.shape[1]] = flat
    return np.ascontiguousarray(whole.reshape(len(whole) // 2, 2, -1, 4).transpose(0, 2, 1, 3))


def _convolution(layer: layers.Convolution, tables: _Tables) -> Call:
    window, (rows, columns, results) = layer.window, layer.result
    flat = layer.weights.reshape(results, -1).astype(np.int64)
    bias = layer.bias - layer.zero_in * flat.sum(1)
    reach = np.abs(bias) + np.abs(flat).sum(1) * 128
    wide = int(np.any(reach * np.abs(layer.scales.astype(np.float64)) >= ROUNDED_MAX))
    even = results % 2
    kernel = [*layer.shape, *window.kernel, *window.strides, *window.dilations, *window.pads[:2]]
    rest: list[int | str] = [rows, columns, results, layer.zero_in, layer.zero, wide]
    biases = tables.name(np.append(bias, [0] * even).astype(np.int32), "int32_t")
    scales = tables.name(np.append(layer.scales, [0.0] * even).astype(np.float32), "float")
    if not layer.depthwise:
        weights = tables.name(paired(layer.weights), "int8_t")
        if layer.direct:
            return "gg_dense", [weights, biases, scales, layer.shape[2], results, layer.zero, wide]
        return "gg_convolution", ["scratch", weights, biases, scales, *kernel, *rest]
    taps = np.zeros((results, window.kernel[0], (window.kernel[1] + 1) // 2 * 2), np.int16)
    taps[:, :, : window.kernel[1]] = layer.weights[..., 0]
    high, broad = plane(layer)
    weights = tables.name(taps, "int16_t")
    return "gg_depthwise", ["scratch", weights, biases, scales, *kernel, high, broad, *rest]


def _max_pool(layer: layers.MaxPool, _: _Tables) -> Call:
    return "gg_max_pool", [*layer.shape, *_window(layer.window), *layer.result[:2]]


def _average_pool(layer: layers.AveragePool, _: _Tables) -> Call:
    before, after = layer.before, layer.after
    ends = number(before.scale), before.zero, number(after.scale), after.zero
    extents = [*layer.shape, *_window(layer.window), *layer.result[:2]]
    return "gg_average_pool", [*extents, *ends, int(layer.count_pads), layer.lift]


def _global_average(layer: layers.GlobalAverage, _: _Tables) -> Call:
    rows, columns, channels = layer.shape
    return "gg_global_average", [rows * columns, channels, layer.zero_in, number(layer.scale), layer.zero]


def _add(layer: layers.Add, _: _Tables) -> Call:
    return "gg_add", [layer.elements, *(number(r) for r in layer.ratios), number(layer.fixed), layer.lift]


def _lookup(layer: layers.Lookup, tables: _Tables) -> Call:
    return "gg_lookup", [tables.name(layer.table, "int8_t"), layer.elements]


def _softmax(layer: layers.Softmax, tables: _Tables) -> Call:
    table = tables.name(layer.exponentials, "float")
    return "gg_softmax", [table, layer.rows, layer.length, number(layer.parts), layer.zero]


def _permute(layer: layers.Permute, _: _Tables) -> Call:
    strides = [prod(layer.shape[a + 1 :]) for a in layer.axes]
    missing = 4 - len(strides)
    return "gg_permute", [*[1] * missing, *layer.result, *[0] * missing, *strides]


def _pad(layer: layers.Pad, _: _Tables) -> Call:
    return "gg_pad", [*layer.shape, *layer.before, *layer.result, layer.value]


_CALLS: dict[type[Layer], Callable[[Any, _Tables], Call]] = {
    layers.Convolution: _convolution,
    layers.MaxPool: _max_pool,
    layers.AveragePool: _average_pool,
    layers.GlobalAverage: _global_average,
    layers.Add: _add,
    layers.Lookup: _lookup,
    layers.Softmax: _softmax,
    layers.Permute: _permute,
    layers.Pad: _pad,
}


def _text(arguments: Sequence[int | str]) -> str:
    return ", ".join(f"({a})" if isinstance(a, int) and a < 0 else str(a) for a in arguments)


def _function(layer: Layer, name: str, tables: _Tables) -> str:
    """A layer as a function of its own: see GG_LAYER."""
    head = f"GG_LAYER void {name}"
    if isinstance(layer, layers.Join):
        return ""
    call, arguments = _CALLS[type(layer)](layer, tables)
    operands = ["x", "z", "y"] if isinstance(layer, layers.Add) else ["x", "y"]
    parameters = ["const int8_t *x", "int8_t *y"]
    if isinstance(layer, layers.Add):
        parameters.insert(1, "const int8_t *z")
    if "scratch" in arguments:
        parameters.append("uint8_t *scratch")
    return f"{head}({', '.join(parameters)}) {{\n  {call}({_text([*operands, *arguments])});\n}}"


_STEP = """\
{tables}
{functions}

/* One frame. `work` is aligned to 8 bytes; nothing in it outlives the call. */
{linkage}void {symbol}_step(const int8_t *in, int8_t *out, void *work) {{
  uint8_t *const room = (uint8_t *)work;
  (void)room;
{body}
}}
"""

_FILE = """\
/* Generated by Ganglion from network {name}, networks {version}. Do not edit. */
{header}
const uint32_t {symbol}_workspace_bytes = {workspace};

{step}
/* Rows in order. */
void {symbol}_rows(int32_t n, const int8_t *in, int8_t *out, void *work) {{
  for (int32_t b = 0; b < n; b++) {symbol}_step(in + (size_t)b * {taken}u, out + (size_t)b * {given}u, work);
}}
"""


def runtime_text() -> str:
    """The text of ``int8_kernels.h``: it is part of the source, so that one file is enough."""
    return files("ganglion.kernels.networks").joinpath("int8_kernels.h").read_text(encoding="utf-8")


def network_c(network: Network, symbol: str, linkage: str = "static ") -> str:
    """The function ``<symbol>_step`` of a network, and what it needs beside `runtime_text`."""
    tables, placed = _Tables(symbol), plan(network)
    functions, body = [], []

    def at(value: int) -> str:
        if value == 0:
            return "in"
        return "out" if value == network.output else f"(int8_t *)(room + {placed.values[value]})"

    for k, layer in enumerate(network.layers):
        name, target = f"{symbol}_l{k}", at(k + 1)
        if isinstance(layer, layers.Join):
            done = 0
            for operand, block in zip(layer.sources, layer.blocks, strict=True):
                extents = _text([layer.outer, block, sum(layer.blocks)])
                body.append(f"  gg_copy({at(operand)}, {target} + {done}, {extents});")
                done += block
            continue
        functions.append(_function(layer, name, tables))
        operands = [at(layer.source)]
        if isinstance(layer, layers.Add):
            operands.append(at(layer.second))
        operands.append(target)
        if k in placed.scratch:
            operands.append(f"room + {placed.scratch[k]}")
        body.append(f"  {name}({', '.join(operands)});")
    if network.output == 0:
        given = network.elements(0)
        body.append(f"  gg_copy(in, out, 1, {given}, {given});")
    return _STEP.format(
        tables="\n".join(tables.lines),
        functions="\n".join(functions),
        linkage=linkage,
        symbol=symbol,
        body="\n".join(body),
    )


def emit_network(network: Network, symbol: str) -> EmittedNetwork:
    """C for a network alone; ``symbol`` is the prefix of its public names."""
    taken, given = prod(network.input_shape), network.elements(network.output)
    workspace_bytes = plan(network).workspace_bytes
    source = _FILE.format(
        name=re.sub(r"[^\w .-]", "_", network.name, flags=re.ASCII),  # whoever made the file chose it
        version=NETWORKS_VERSION,
        header=runtime_text(),
        symbol=symbol,
        workspace=workspace_bytes,
        step=network_c(network, symbol, ""),
        taken=taken,
        given=given,
    )
    return EmittedNetwork(source, symbol, workspace_bytes, taken, given)

"""Ganglion: write a data flow once; it runs where latency, cost, energy and law say it should.

import ganglion as gg
"""

from ganglion.core.labels import Labels as _Labels
from ganglion.core.schema import boolean, f32, f64, i16, i32, i64
from ganglion.flow.aggregates import count, max, mean, min, std, sum
from ganglion.flow.build import Flow, Stream
from ganglion.flow.forms import Frame, Row
from ganglion.kernels import Kernel, dequantize, kernel, network, quantize, scan

Labels = _Labels.make

__all__ = [
    "Flow",
    "Frame",
    "Kernel",
    "Labels",
    "Row",
    "Stream",
    "boolean",
    "count",
    "dequantize",
    "f32",
    "f64",
    "i16",
    "i32",
    "i64",
    "kernel",
    "max",
    "mean",
    "min",
    "network",
    "quantize",
    "scan",
    "std",
    "sum",
]

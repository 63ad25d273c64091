"""Kernels: portable pure functions on one frame, written in plain NumPy.

A function is traced once into a program whose order of evaluation is fixed; from it comes C for every target, and
the same bits everywhere. See docs/adr/0010.
"""

from ganglion.kernels.kernel import Kernel, Record, kernel
from ganglion.kernels.tracing.loops import scan
from ganglion.kernels.tracing.networks import KernelNetwork, network
from ganglion.kernels.tracing.quantisation import dequantize, quantize

__all__ = ["Kernel", "KernelNetwork", "Record", "dequantize", "kernel", "network", "quantize", "scan"]

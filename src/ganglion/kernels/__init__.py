"""Kernels: portable pure functions on one frame, written in plain NumPy.

A function is traced once into a program whose order of evaluation is fixed; from it comes C for every target, and
the same bits everywhere. See docs/adr/0010.
"""

from ganglion.kernels.kernel import Kernel, Record, kernel
from ganglion.kernels.tracing.loops import scan

__all__ = ["Kernel", "Record", "kernel", "scan"]

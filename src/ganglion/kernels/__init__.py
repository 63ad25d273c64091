"""Kernels: portable pure functions on one frame, written in plain NumPy.

In this version a kernel runs in NumPy on every tier (labelled "not bit-exact" by plans and reports);
tracing to an IR and C comes in a later one and does not change how a kernel is written.
"""

from ganglion.kernels.kernel import Kernel, Record, kernel

__all__ = ["Kernel", "Record", "kernel"]

"""The operations of the kernel IR, by family."""

from ganglion.kernels.ops.elementwise import ELEMENTWISE
from ganglion.kernels.ops.linear import LINEAR
from ganglion.kernels.ops.loop import LOOP
from ganglion.kernels.ops.network import NETWORK
from ganglion.kernels.ops.op import Op
from ganglion.kernels.ops.quantisation import QUANTISATION
from ganglion.kernels.ops.reduction import REDUCTION
from ganglion.kernels.ops.shape import SHAPE
from ganglion.kernels.ops.spectrum import SPECTRUM

OPS: dict[str, Op] = {
    op.name: op
    for op in (*SHAPE, *ELEMENTWISE, *REDUCTION, *LINEAR, *SPECTRUM, *LOOP, *QUANTISATION, *NETWORK)
}

__all__ = ["OPS", "Op"]

"""A network as C for people's own programs: one source, its header, and the runtime both include."""

from __future__ import annotations

from ganglion.core.errors import DataError
from ganglion.kernels.c.emission import runtime_header
from ganglion.kernels.networks.emission import emit_network
from ganglion.kernels.networks.layers import Network, Quantised

_HEADER = """\
/* Network {name}, made by Ganglion. Do not edit.
 *
 * {symbol}_step computes one frame: {taken} int8 in {shape}, {given} int8 out. `work` is {work} bytes, aligned to 8;
 * nothing in it outlives the call, nothing is allocated, nothing of a C library is used.
 * A real number is scale * (integer - zero). */
#ifndef {guard}
#define {guard}
#include <stdint.h>

#define {upper}_INPUT_BYTES {taken}
#define {upper}_OUTPUT_BYTES {given}
#define {upper}_WORKSPACE_BYTES {work}
{scales}
#ifdef __cplusplus
extern "C" {{
#endif
void {symbol}_step(const int8_t *in, int8_t *out, void *work);
void {symbol}_rows(int32_t n, const int8_t *in, int8_t *out, void *work);
#ifdef __cplusplus
}}
#endif
#endif
"""


def symbol_of(name: str) -> str:
    """A recipe's or file's name as a C identifier. Raises `DataError` ``learning.symbol`` when there is none."""
    symbol = name.replace("-", "_")
    if not symbol.isidentifier() or not symbol.isascii():
        raise DataError(
            "learning.symbol",
            f"{name!r} cannot be the name of C functions",
            why="it is not letters, digits, dashes and underscores, a letter first",
            next_step="rename the file or the recipe",
        )
    return symbol


def c_files(network: Network, name: str) -> dict[str, str]:
    """File name to text: ``NAME.c``, ``NAME.h`` and ``kernel_runtime.h``."""
    symbol = symbol_of(name)
    written = emit_network(network, symbol)
    upper = symbol.upper()
    header = _HEADER.format(
        name=name,
        symbol=symbol,
        upper=upper,
        guard=f"{upper}_H",
        taken=written.input_bytes,
        given=written.output_bytes,
        work=written.workspace_bytes,
        shape=list(network.input_shape),
        scales=_scales(upper, "INPUT", network.input_scale) + _scales(upper, "OUTPUT", network.output_scale),
    )
    return {f"{symbol}.c": written.source, f"{symbol}.h": header, "kernel_runtime.h": runtime_header()}


def _scales(upper: str, which: str, scale: Quantised | None) -> str:
    if scale is None:
        return ""
    return (
        f"#define {upper}_{which}_SCALE {scale.scale.hex()}f\n#define {upper}_{which}_ZERO ({scale.zero})\n"
    )

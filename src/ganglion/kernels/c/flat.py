"""Rows of a kernel that computes each element from the elements of the same place: one loop over all of them.

No row has to be told from the next, so nothing is brought together or taken apart, vectors are filled whatever the
frame's shape, and what several outputs share is computed once.
"""

from __future__ import annotations

import numpy as np

from ganglion.core.schema import TensorType
from ganglion.kernels.c.emission import Emitter, Group, plan_of
from ganglion.kernels.c.reading import Text
from ganglion.kernels.ir.program import Node, Program
from ganglion.kernels.ops import OPS
from ganglion.kernels.ops.reduction import C_TYPES

ELEMENTS_MAX = 65_536
"""Elements in a call: their number is an int, which vectors are counted by faster than by a size_t."""
WHOLE = 16
"""Elements of the widest vector: as many, or several times as many, are computed without masks."""

_FUNCTION = """\
static void {name}(int n, const void *const *in, void *const *out) {{
{body}
}}

"""
_CALL = """\
for (; b < n;) {{
    const int32_t m = n - b < {rows} ? n - b : {rows};
    const void *in_b[{inputs_n}] = {{{in_b}}};
    void *out_b[{outputs_n}] = {{{out_b}}};
    {name}(m * {elements}, in_b, out_b);
    for (int32_t k = 0; k < m; k++) emit[b + k] = 1;
    b += m;
  }}"""


def flat_of(program: Program, symbol: str, text: Text) -> Group | None:
    """The function for the elements of all rows; None when an element's place matters."""
    single = for_one_element(program)
    if single is None:
        return None
    kinds_in = [program.nodes[n].type for _, n in program.inputs]
    kinds_out = [program.nodes[n].type for _, n in program.outputs]
    elements = kinds_in[0].elements
    emitter = _FlatEmitter(single, symbol, plan_of(single), [f"x{k}" for k in range(len(kinds_in))], text)
    name = f"{symbol}_flat"
    call = _CALL.format(
        name=name,
        elements=elements,
        rows=max(1, ELEMENTS_MAX // elements),
        inputs_n=len(kinds_in),
        outputs_n=len(kinds_out),
        in_b=", ".join(_row("const ", "in", k, kind) for k, kind in enumerate(kinds_in)),
        out_b=", ".join(_row("", "out", k, kind) for k, kind in enumerate(kinds_out)),
    )
    return Group(_FUNCTION.format(name=name, body="\n".join(emitter.loop_over_all())), call, 0, 0)


def _row(const: str, pointers: str, k: int, kind: TensorType) -> str:
    return f"({const}{C_TYPES[kind.dtype]} *){pointers}[{k}] + (size_t)b * {kind.elements}"


def for_one_element(program: Program) -> Program | None:
    """The program for frames of a single element, if it computes every element like that; None if it does not."""
    if program.state or program.emit is not None or not program.inputs or not program.outputs:
        return None
    elements = program.nodes[program.inputs[0][1]].type.elements
    nodes: list[Node] = []
    new: dict[int, int] = {}
    for number, node in enumerate(program.nodes):
        scalar = TensorType(node.type.dtype, ())
        if node.op == "const":
            values = np.asarray(node.attributes["value"])
            first = values.reshape(-1)[:1]
            if values.tobytes() != np.full(values.shape, first).tobytes():
                return None
            made = Node("const", (), scalar, {"value": first.reshape(())}, node.source)
        elif node.op in ("broadcast", "reshape") and nodes[new[node.inputs[0]]].op == "const":
            new[number] = new[node.inputs[0]]
            continue
        elif node.type.elements != elements:
            return None
        elif node.op in ("broadcast", "reshape"):
            new[number] = new[node.inputs[0]]
            continue
        elif node.op != "input" and OPS[node.op].element is None:
            return None
        else:
            made = Node(node.op, tuple(new[i] for i in node.inputs), scalar, node.attributes, node.source)
        nodes.append(made)
        new[number] = len(nodes) - 1
    if any(program.nodes[n].type.elements != elements for _, n in program.outputs):
        return None
    inputs = tuple((name, new[n]) for name, n in program.inputs)
    outputs = tuple((name, new[n]) for name, n in program.outputs)
    return Program(program.name, tuple(nodes), inputs, outputs)


class _FlatEmitter(Emitter):
    """Writes the program for one element into a loop over those of all rows."""

    def _place(self, _number: int, _place: str) -> str:
        return "i"

    def loop_over_all(self) -> list[str]:
        """The statements of the function."""
        nodes = self._program.nodes
        for k, (_, number) in enumerate(self._program.inputs):
            kind = C_TYPES[nodes[number].type.dtype]
            self.line(f"const {kind} *restrict const x{k} = (const {kind} *)in[{k}];")
        for k, (_, number) in enumerate(self._program.outputs):
            kind = C_TYPES[nodes[number].type.dtype]
            self.line(f"{kind} *restrict const y{k} = ({kind} *)out[{k}];")
        # Masks cost something on every element, so only the last few are masked, where the processor can.
        self.line(f"const int whole = n - n % {WHOLE};")
        self._over("GG_ALL for (int i = 0; i < whole; i++) {")
        self._over("GG_MASKED for (int i = whole; i < n; i++) {")
        return self._text.lines

    def _over(self, head: str) -> None:
        self.line(head)
        self._text.depth += 1
        self.statements()
        for k, (_, number) in enumerate(self._program.outputs):
            self.line(f"y{k}[i] = {self.stored(number, [])};")
        self.end()

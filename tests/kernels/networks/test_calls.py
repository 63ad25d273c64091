"""Networks within kernels: gg.network reads a file, calling it traces one operation, and the program carries it."""

import contextlib
import copy
import json
import re
import runpy
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ganglion as gg
from ganglion.core.errors import DataError, GanglionError, KernelError
from ganglion.kernels import KernelNetwork
from ganglion.kernels.c.emission import emit
from ganglion.kernels.c.library import Library
from ganglion.kernels.c.proof import wrong_frames
from ganglion.kernels.c.toolchain import compilers
from ganglion.kernels.ir.check import check
from ganglion.kernels.ir.interpret import interpret
from ganglion.kernels.ir.program import Program
from ganglion.kernels.networks import emission, onnx_reader
from ganglion.kernels.networks.operations import lower
from ganglion.kernels.networks.stored import kept_layers, network_digest
from ganglion.kernels.tracing import networks
from ganglion.kernels.vectors import inputs
from tests.kernels import graphs, zoo
from tests.kernels.networks.files import MOVES, onnx_bytes
from tests.kernels.networks.sketches import onnxruntime

COMPILERS = compilers()


def calling(network):
    return lambda x: {"y": network(x)}


def ordinary(kind, rng, n):
    if kind.dtype == "i32":
        return rng.integers(-128, 128, (n, *kind.shape)).astype(np.int32)
    return rng.normal(0, 3, (n, *kind.shape)).astype(np.float32)


@pytest.mark.parametrize("name", graphs.GRAPHS)
def test_a_kernel_gives_what_onnx_runtime_gives_for_the_file(name, rng):
    """At both doors: real numbers to real numbers, byte for byte, or whole ones."""
    graph = graphs.GRAPHS[name]
    network = KernelNetwork(lower(graph))

    @gg.kernel(x=network.input)
    def called(x):
        return {"y": network(x)}

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    session = onnxruntime.InferenceSession(onnx_bytes(graph), options, providers=["CPUExecutionProvider"])
    frames = ordinary(network.input, rng, 50) + (128 if network.layers.unsigned else 0)
    given = frames.astype(graph.input_dtype)
    wanted = np.concatenate([session.run(None, {graph.input_name: f[None]})[0] for f in given])
    found = interpret(called.program, {"frame": frames}).outputs["y"]
    assert found.dtype == network.output.numpy and wanted.shape == found.shape
    assert found.tobytes() == wanted.astype(found.dtype).tobytes()
    plain = np.array([called(frame)["y"] for frame in frames], found.dtype)
    assert plain.tobytes() == found.tobytes()


def test_a_call_is_one_operation_and_the_same_call_is_made_once():
    network = graphs.NETWORKS["moves"]

    @gg.kernel(x=network.input)
    def twice(x):
        return {"best": np.argmax(network(x)), "logits": network(x)}

    ops = [n.op for n in twice.program.nodes]
    assert (ops.count("quantize"), ops.count("network"), ops.count("dequantize")) == (1, 1, 1)


def test_one_network_called_twice_is_written_once():
    network = graphs.NETWORKS["residual_int8"]
    kernel = gg.kernel(x=network.input)(lambda x: {"near": network(x), "far": network(-x)})
    source = emit(kernel.program, "k").source
    assert len(re.findall(r"static void \w+_step\(", source)) == 1
    assert len(re.findall(r"  \w+_step\(", source)) == 2


def test_the_cost_counts_every_product():
    network = graphs.NETWORKS["classifier"]
    kernel = gg.kernel(x=network.input)(lambda x: {"y": network(x)})
    assert network.layers.products > 9_000
    assert 2 * network.layers.products < kernel.cost.operations < 4 * network.layers.products


# --- files ---

FLOW = """\
import ganglion as gg
net = gg.network({path!r})
kernel = gg.kernel(x=net.input)(lambda x: {{"y": net(x)}})
"""


def flow(folder, path, content=None):
    """What a module there makes of a file beside it."""
    if content is not None:
        (folder / path).write_bytes(content)
    (folder / "flow.py").write_text(FLOW.format(path=path))
    return runpy.run_path(str(folder / "flow.py"))


def test_a_path_begins_at_the_file_that_names_it(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    made = flow(tmp_path, "moves.onnx", MOVES.read_bytes())
    assert made["net"].digest == graphs.NETWORKS["moves"].digest, (
        "tests/kernels/networks/files.py writes it again"
    )
    assert repr(made["net"]) == "<network moves: f32[3, 32] to f32[4]>"
    assert made["kernel"].output["y"].type == gg.f32[4]
    assert flow(tmp_path, str(tmp_path / "moves.onnx"))["net"].digest == made["net"].digest


REFUSED = {
    "missing": (None, "network.missing"),
    "no ONNX": (b"\0\1nonsense", "network.file"),
    "cut off": (MOVES.read_bytes()[:-200], "network.file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_cannot_be_read_is_said_with_the_line_of_the_call(case, tmp_path):
    content, code = REFUSED[case]
    with pytest.raises(DataError) as caught:
        flow(tmp_path, "moves.onnx", content)
    assert caught.value.code == code
    assert "moves.onnx at flow.py:2: net = gg.network" in caught.value.what
    assert caught.value.why and caught.value.next_step


@pytest.mark.parametrize("module, limit", [(networks, "oversized"), (onnx_reader, "FILE_BYTES_MAX")])
def test_a_network_that_is_too_large_is_refused(module, limit, tmp_path, monkeypatch):
    monkeypatch.setattr(module, limit, (lambda _: True) if limit == "oversized" else 100)
    with pytest.raises(GanglionError) as caught:
        flow(tmp_path, "moves.onnx", MOVES.read_bytes())
    assert caught.value.code == ("network.size" if limit == "oversized" else "network.file")
    assert "flow.py:2" in caught.value.what


WRONG = {
    "another shape": ("classifier", lambda net, x: net(x[:5])),
    "a batch axis": ("classifier", lambda net, x: net(x[None])),
    "real numbers for whole ones": ("residual_int8", lambda net, x: net(x[:2, :35].reshape(2, 7, 5))),
}


@pytest.mark.parametrize("traced", [True, False], ids=["traced", "untraced"])
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_call_is_said_with_its_line(case, traced):
    name, call = WRONG[case]
    run = gg.kernel(x=gg.f32[6, 64]) if traced else lambda f: f(np.zeros((6, 64), np.float32))
    with pytest.raises(KernelError) as caught:
        run(lambda x: {"y": call(graphs.NETWORKS[name], x)})
    assert caught.value.code == "kernel.shape"
    assert re.search(r"at test_calls\.py:\d+: \S", caught.value.what)
    assert caught.value.why and caught.value.next_step


def without_zero_point(dtype, **attributes):
    """Quantised at the door to what ONNX says where no zero point does."""
    plan = graphs.Plan((20,), 5, dtype=dtype)
    plan.constants[plan.scales["x"][1]] = dtype(0)
    plan.gemm(3)
    graph = plan.graph("autoencoder")
    door = graph.nodes[0]
    bare = replace(door, inputs=door.inputs[:2], attributes=attributes)
    return graph, replace(graph, nodes=(bare, *graph.nodes[1:]))


@pytest.mark.parametrize("dtype, attributes", [(np.uint8, {}), (np.int8, {"output_dtype": 3})])
def test_a_zero_point_that_is_not_there_is_0(dtype, attributes):
    said, unsaid = (lower(g) for g in without_zero_point(dtype, **attributes))
    assert network_digest(said) == network_digest(unsaid)


def test_values_of_two_types_are_refused():
    with pytest.raises(KernelError) as caught:
        lower(without_zero_point(np.int8)[1])
    assert caught.value.code == "network.type" and caught.value.why and caught.value.next_step


# --- programs travel ---


def stored(name):
    return json.loads(json.dumps(zoo.program_of(name).to_json()))


@pytest.mark.parametrize("name", ["classified", "shared_out", "anomaly"])
def test_a_program_brings_its_network_along(name):
    program, wanted = Program.from_json(stored(name)), zoo.program_of(name)
    assert check(program).digest == wanted.digest
    given = inputs(wanted, 6, 1)
    ours, theirs = interpret(program, given), interpret(wanted, given)
    assert all(ours.outputs[k].tobytes() == v.tobytes() for k, v in theirs.outputs.items())
    assert emit(program, "k").source == emit(wanted, "k").source


def test_one_other_weight_is_another_kernel():
    changed = graphs.autoencoder()
    name = next(n for n, v in changed.constants.items() if v.dtype == np.int8 and v.ndim == 2)
    changed.constants[name][0, 0] ^= 1
    other, same = (KernelNetwork(lower(g)) for g in (changed, graphs.autoencoder()))
    kernels = [gg.kernel(x=net.input)(calling(net)) for net in (other, same)]
    assert same.digest == graphs.NETWORKS["autoencoder"].digest
    assert kernels[0].digest != kernels[1].digest


def parts(value, path=()):
    """Every place within JSON that holds something."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from parts(part, (*path, key))


STORED = {name: stored(name) for name in ("classified", "shared_out")}
PLACES = {
    name: [
        (k, *path)
        for k, node in enumerate(value["nodes"])
        if node["op"] == "network"
        for path in parts(node["attributes"]["network"], ("attributes", "network"))
    ]
    for name, value in STORED.items()
}
OTHER = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([1 << 20, 1 << 31, -(1 << 31), 1 << 63, 0.5, float("inf"), "", "int8", [], {}, [1, 2]]),
)


@given(data=st.data())
def test_a_damaged_network_is_refused_or_computed_but_never_a_bug(data):
    """One part is left out or exchanged: nothing that is read may index outside of memory."""
    name = data.draw(st.sampled_from(sorted(STORED)))
    value = copy.deepcopy(STORED[name])
    *path, last = data.draw(st.sampled_from([p for p in PLACES[name] if len(p) > 3]))
    holder = value["nodes"]
    for key in path:
        holder = holder[key]
    if isinstance(holder, dict) and data.draw(st.booleans()):
        del holder[last]
    else:
        holder[last] = data.draw(OTHER)
    with contextlib.suppress(DataError):
        program = check(Program.from_json(value))
        interpret(program, inputs(program, 6, 1))
        assert emit(program, "k").workspace_bytes < 1 << 27


# --- memory ---

SIGNED, UNSIGNED = graphs.NETWORKS["residual_int8"], graphs.NETWORKS["residual_uint8"]


def quantised(x, dtype=np.int8):
    return gg.quantize(x, 0.1, 3, dtype)


def both(x):
    """One quantisation for two networks: the one reads it in place, the other within another range."""
    q = quantised(x)
    return {"near": SIGNED(q), "far": UNSIGNED(q), "q": q[0], "sum": np.sum(q)}


def part(x):
    q = quantised(np.stack([x, -x, x * 2]))
    return {"y": SIGNED(q[1]), "turned": SIGNED(q[:, :, ::-1][2]), "rest": q[2]}


def chained(x):
    y = SIGNED(quantised(x))
    again = SIGNED(np.concatenate([np.reshape(y, -1)] * 70)[:70].reshape(2, 7, 5))
    return {"y": gg.dequantize(again, 0.5, -7), "best": np.argmax(np.reshape(y, -1)), "plain": y}


def scanned(x):
    """A scan reads its sequence by address, as whole numbers; a network reads the same one."""
    q = quantised(x, np.uint8)
    (total,), seen = gg.scan(lambda c, row: ((c[0] + np.sum(row),), row[0]), (0,), np.reshape(q, (14, 5)))
    return {"y": UNSIGNED(q), "total": total, "seen": seen}


@pytest.mark.skipif(not COMPILERS, reason="there is no C compiler (gcc, clang or ziglang)")
@pytest.mark.parametrize("compiler", COMPILERS, ids=lambda c: c.kind)
@pytest.mark.parametrize("function", [both, part, chained, scanned], ids=lambda f: f.__name__)
def test_whole_numbers_kept_as_bytes_are_the_same_numbers(function, compiler, tmp_path):
    program = gg.kernel(x=gg.f32[2, 7, 5])(function).program
    assert wrong_frames(Library.build(program, compiler, tmp_path)) == 0


def test_what_only_networks_read_lies_in_memory_once():
    """A byte for each whole number, none copied between two networks."""
    one, two = (
        emit(gg.kernel(x=gg.f32[2, 7, 5])(f).program, "k").workspace_bytes
        for f in (
            lambda x: {"y": SIGNED(quantised(x))},
            lambda x: {"y": SIGNED(quantised(x)), "z": SIGNED(quantised(x))},
        )
    )
    assert two - one <= SIGNED.output.elements + 16


# --- bugs ---


def tied():
    """Sums in units of 1/512: many lie half way between two integers."""
    plan = graphs.Plan((8,), 6, real=False)
    plan.gemm(16)
    last = plan.scales[plan.now][0]
    for name, value in plan.constants.items():
        if value.dtype == np.float32:
            plan.constants[name] = np.full_like(value, 2.0**-5 if name == last else 2.0**-7)
    network = KernelNetwork(lower(plan.graph("tied")))
    return gg.kernel(x=network.input)(calling(network)).program


PLANTED = {
    "half up instead of to even": (
        "x + 12582912.0f) - (0x4B400000 - zero)",
        "gg_floor(x + 0.5f) + 12582912.0f) - (0x4B400000 - zero)",
    ),
    "padding with 0 instead of the zero point": ("to[c] = (int8_t)zero;", "to[c] = 0;"),
}


@pytest.mark.skipif(not COMPILERS, reason="there is no C compiler (gcc, clang or ziglang)")
@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_noticed_by_the_proof(bug, tmp_path, monkeypatch):
    right, wrong = PLANTED[bug]
    text = emission.runtime_text()
    assert right in text
    monkeypatch.setattr("ganglion.kernels.ops.network.runtime_text", lambda: text.replace(right, wrong))
    program = tied() if bug.startswith("half") else zoo.program_of("shared_out")
    assert wrong_frames(Library.build(program, COMPILERS[0], tmp_path)) > 0


class Beside:
    """An ONNX file and its layers."""

    def __init__(self, folder):
        self.onnx, self.layers = folder / "n.onnx", folder / "n.layers.json"
        self.network = lower(graphs.GRAPHS["moves"])
        self.onnx.write_bytes(onnx_bytes(graphs.GRAPHS["moves"]))
        self.layers.write_bytes(kept_layers(self.network, self.onnx.read_bytes()))


def test_layers_beside_a_file_take_no_onnx(tmp_path, monkeypatch):
    beside = Beside(tmp_path)
    wanted = gg.network(beside.onnx).digest
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert gg.network(beside.onnx).digest == wanted == network_digest(beside.network)
    beside.layers.unlink()
    with pytest.raises(GanglionError) as caught:
        gg.network(beside.onnx)
    assert caught.value.code == "network.extra"


def test_layers_of_another_file_are_not_taken(tmp_path):
    beside = Beside(tmp_path)
    other = lower(next(g for name, g in graphs.GRAPHS.items() if name != "moves"))
    beside.layers.write_bytes(kept_layers(other, b"another file"))
    assert gg.network(beside.onnx).digest == network_digest(beside.network) != network_digest(other)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"onnx_sha256": 3}', b"\xff", None])
def test_layers_that_are_none_are_refused(content, tmp_path):
    beside = Beside(tmp_path)
    if content is None:  # of this file, and no network
        whole = json.loads(beside.layers.read_bytes())
        whole["network"]["layers"][0]["kind"] = "Window"
        content = json.dumps(whole).encode()
    beside.layers.write_bytes(content)
    if content == b'{"onnx_sha256": 3}':
        assert gg.network(beside.onnx).digest == network_digest(beside.network), "of another file, then"
        return
    with pytest.raises(DataError) as caught:
        gg.network(beside.onnx)
    assert caught.value.code == "network.file" and "n.layers.json" in str(caught.value)

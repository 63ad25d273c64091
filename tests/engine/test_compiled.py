"""Compiled kernels in the engine: the same rows, the same state, and a state that moves between the two ways."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ganglion as gg
from ganglion.engine.operators import MapOperator
from ganglion.flow.stages import MapStage
from ganglion.kernels.c.toolchain import compilers
from ganglion.kernels.loading import load
from ganglion.kernels.running import CompiledRunner, NumpyRunner, runner_of
from tests.engine.streams import ORIGINS, plain, rows_of, stored
from tests.engine.test_operators import STAGES, arrivals, mapped, numbered
from tests.kernels.graphs import NETWORKS

NAMES = ["running", "plainly", "looking"]
pytestmark = pytest.mark.skipif(not compilers(), reason="there is no C compiler (gcc, clang or ziglang)")


def map_stage(name):
    stage = STAGES[name]
    assert isinstance(stage, MapStage)
    return stage


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    return load([map_stage(n).kernel for n in NAMES], tmp_path_factory.mktemp("kernels"))


def compiled(name, libraries):
    stage = map_stage(name)
    runner = runner_of(stage.kernel, libraries)
    assert isinstance(runner, CompiledRunner)
    return MapOperator(stage, STAGES[stage.inputs[0]], runner)


def test_a_kernel_without_a_library_runs_in_numpy():
    runner = runner_of(map_stage("running").kernel, {})
    assert isinstance(runner, NumpyRunner)
    assert not runner.same_bits


@given(arrivals, st.sampled_from(NAMES))
def test_compiled_and_numpy_give_the_same_rows(libraries, history, name):
    """Whole numbers, which both compute exactly."""
    fast, slow = compiled(name, libraries), mapped(name)
    for batch in numbered(history):
        assert [plain(b) for b in fast.process(batch)] == [plain(b) for b in slow.process(batch)]
    assert fast.counts == slow.counts


@given(arrivals, st.sampled_from(NAMES))
def test_state_moves_between_compiled_and_numpy_at_any_batch(libraries, history, name):
    whole, moving = mapped(name), mapped(name)
    for turn, batch in enumerate(numbered(history)):
        snapshot = stored(moving.snapshot())
        moving = compiled(name, libraries) if turn % 2 else mapped(name)
        moving.restore(snapshot)
        assert [plain(b) for b in moving.process(batch)] == [plain(b) for b in whole.process(batch)]
    assert moving.counts == whole.counts


def test_counts_of_16_bits_reach_kernels_as_whole_numbers_that_do_not_wrap(libraries, tmp_path):
    @gg.kernel(x=gg.i16[2])
    def product(x):
        return {"y": x[0] * x[1]}

    runners = [NumpyRunner(product), runner_of(product, load([product], tmp_path))]
    frame = np.array([[300, 400], [-32768, 2]], np.int16)
    assert [r.rows({"frame": frame}, r.fresh()).columns["y"].tolist() for r in runners] == [
        [120_000, -65_536]
    ] * 2


def test_a_network_in_a_kernel_gives_the_same_rows_and_state_either_way(tmp_path, rng):
    """Whole numbers at both of its doors, so NumPy is exact too; each origin waits for two of a class in turn."""
    network = NETWORKS["residual_int8"]

    @gg.kernel(x=gg.i16[2, 7, 5], state={"best": 0, "n": 0})
    def agreed(x, s):
        shares = network(x)
        best = np.argmax(shares)
        n = np.where(best == s.best, s.n + 1, 1)
        return {"best": best, "share": shares[0]}, n >= 2, {"best": best, "n": n}

    flow = gg.Flow("images")
    images = flow.source("images", gg.Frame(2, 7, 5, dtype="i16"), every="1ms")
    images.map(agreed)
    source, stage = flow.stages
    assert isinstance(stage, MapStage)
    libraries = load([agreed], tmp_path)
    assert agreed.digest in libraries
    fast, slow, moving = (MapOperator(stage, source, runner_of(agreed, k)) for k in (libraries, {}, {}))
    rows = 0
    for turn in range(12):
        frames = np.repeat(rng.integers(-128, 128, (3, 2, 7, 5)), 2, axis=0).astype(np.int16)
        batch = rows_of(
            "images", ORIGINS[turn % 2], 6 * turn, list(range(6 * turn, 6 * turn + 6)), frame=frames
        )
        wanted = [plain(b) for b in slow.process(batch)]
        assert [plain(b) for b in fast.process(batch)] == wanted
        snapshot = stored(moving.snapshot())
        moving = MapOperator(stage, source, runner_of(agreed, libraries if turn % 2 else {}))
        moving.restore(snapshot)
        assert [plain(b) for b in moving.process(batch)] == wanted
        rows += len(wanted)
    assert rows and fast.counts == slow.counts

"""Folds: the law that batches do not matter, the reference against plain Python, and C against the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.kernels.c.toolchain import build_library, compilers
from ganglion.kernels.folds.compiled import CompiledFolder, agrees, compiled, source
from ganglion.kernels.folds.fold import DTYPES, Fold, Function, Part, ReferenceFolder
from ganglion.kernels.loading import load

FUNCTIONS: tuple[Function, ...] = ("sum", "squares", "min", "max")
EVERYTHING = Fold(
    DTYPES, (Part("count"), *(Part(f, column) for column in range(len(DTYPES)) for f in FUNCTIONS))
)
ONE_FLOAT = Fold(("f64",), (Part("count"), *(Part(f, 0) for f in FUNCTIONS)))
NARROW = Fold(("f32",), (Part("sum", 0),))
COUNTING = Fold((), (Part("count"),))
FOLDS = [EVERYTHING, ONE_FLOAT, NARROW, COUNTING]

floats = st.floats(width=64) | st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan, 0.1, 1e308])
needs_compiler = pytest.mark.skipif(not compilers(), reason="there is no C compiler (gcc, clang or ziglang)")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of each fold, the reference and what every compiler of this machine makes."""
    directory = tmp_path_factory.mktemp("folds")
    made = {}
    for fold in FOLDS:
        libraries = [CompiledFolder(fold, build_library(source(fold), c, directory)) for c in compilers()]
        made[fold.digest] = [ReferenceFolder(fold), *libraries]
    return made


def in_plain_python(values):
    """count, sum, squares, min, max, one value after the other."""
    count, total, squares, low, high = 0.0, -0.0, 0.0, math.inf, -math.inf
    for x in values:
        count, total, squares = count + 1, total + x, squares + x * x
        low = x if x < low or math.isnan(x) else low
        high = x if x > high or math.isnan(x) else high
    return np.array([math.nan if math.isnan(v) else v for v in (count, total, squares, low, high)])


@given(st.lists(floats, max_size=40))
def test_a_fold_is_what_plain_python_adds_up(folders, values):
    for folder in folders[ONE_FLOAT.digest]:
        table = ONE_FLOAT.fresh(1)
        folder.add(table, [np.array(values, np.float64)], len(values), None)
        assert table[0].tobytes() == in_plain_python(values).tobytes()


@given(st.lists(st.tuples(floats, st.integers(0, 3)), max_size=40), st.data())
def test_however_rows_are_cut_into_batches_the_bits_are_the_same(folders, rows, data):
    values = np.array([v for v, _ in rows], np.float64)
    slots = np.array([s for _, s in rows], np.int32)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=5)))
    whole = ONE_FLOAT.fresh(4)
    ReferenceFolder(ONE_FLOAT).add(whole, [values], len(rows), slots)
    for folder in folders[ONE_FLOAT.digest]:
        table = ONE_FLOAT.fresh(4)
        for first, last in zip([0, *cuts], [*cuts, len(rows)], strict=True):
            folder.add(table, [values[first:last]], last - first, slots[first:last])
        assert table.tobytes() == whole.tobytes()


@needs_compiler
@pytest.mark.parametrize("fold", FOLDS, ids=["everything", "float", "narrow", "counting"])
def test_every_compiler_gives_the_references_bits_on_hostile_rows(folders, fold):
    for folder in folders[fold.digest][1:]:
        assert agrees(folder, rows=10_000, seed=7)


PLANTED = {
    "added in another order": ("p1 += (double)c0[i];", "p1 += (double)c0[n - 1 - i];"),
    "a NaN is passed over": ("|| x != x", ""),
    "the last of equal values": ("x < p", "x <= p"),
    "NaNs as they come": ("table[k] = one_nan(table[k])", "(void)one_nan"),
    "narrow squares": ("double x = (double)c0[i]; x = x * x;", "float x = (float)c0[i]; x = x * x;"),
}


def test_a_signalling_nan_is_a_nan_and_no_warning(folders):
    for folder in folders[NARROW.digest]:
        table = NARROW.fresh(1)
        folder.add(table, [np.array([0x7F800001, 0x3F800000], np.uint32).view(np.float32)], 2, None)
        assert table.tobytes() == np.array([np.nan]).tobytes()


@needs_compiler
@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_not_used(tmp_path, bug):
    right, wrong = PLANTED[bug]
    text = source(ONE_FLOAT)
    assert right in text
    folder = CompiledFolder(ONE_FLOAT, build_library(text.replace(right, wrong), compilers()[0], tmp_path))
    assert not agrees(folder)


@needs_compiler
def test_a_library_that_fails_is_passed_over_and_one_that_held_is_remembered(tmp_path, monkeypatch):
    assert compiled(ONE_FLOAT, [], tmp_path) is None
    with monkeypatch.context() as patch:
        patch.setattr("ganglion.kernels.folds.compiled.agrees", lambda _: False)
        assert compiled(ONE_FLOAT, compilers(), tmp_path) is None
        assert load([], tmp_path, [ONE_FLOAT]) == {}
    folder = compiled(ONE_FLOAT, compilers(), tmp_path)
    assert folder is not None and folder.path.with_suffix(".same-bits").exists()
    assert load([], tmp_path, [ONE_FLOAT])[ONE_FLOAT.digest].path == folder.path


def test_the_identity_of_a_fold_is_what_it_computes():
    assert ONE_FLOAT.digest == Fold(ONE_FLOAT.columns, ONE_FLOAT.parts).digest
    assert len({f.digest for f in FOLDS}) == len(FOLDS)
    assert Fold(("f32",), ONE_FLOAT.parts).digest != ONE_FLOAT.digest

"""A kernel's digest: it changes with everything that changes what the kernel computes, and with nothing else."""

import importlib.util
import itertools
import sys
from typing import Any

import pytest

SOURCE = """
from dataclasses import dataclass
from functools import reduce
import numpy as np
import ganglion as gg
import limits

LIMIT = 1.5
TABLE = np.linspace(0, 1, 4, dtype=np.float32)
NAMES = {"b", "a", "c"}
OTHER = 7

@dataclass(frozen=True)
class Settings:
    gain: float = 2.0

SETTINGS = Settings()

def scaled(x):
    return x * SETTINGS.gain * deeper(x)

def deeper(x):
    return 1 + sum(v for v in [limits.FLOOR])

def make(offset):
    def shifted(x, step=3):
        return x + offset + step
    return shifted

SHIFTED = make(5)

@gg.kernel(x=gg.f32[4], units={"y": "A"})
def features(x):
    return {"y": np.max(scaled(x) * TABLE) > LIMIT, "z": [SHIFTED(v) for v in x], "n": len(NAMES)}

@gg.kernel(f=features, state={"n": 0})
def counted(f, s):
    return {"n": s.n}, f.y, {"n": s.n + 1}
"""
names = (f"identity_case_{i}" for i in itertools.count())


@pytest.fixture
def digests(tmp_path, monkeypatch):
    """Digests of the two kernels of an edited module, in a directory of its own."""
    counter = itertools.count()

    def of(old="", new="", floor="FLOOR = 0.5\n"):
        folder = tmp_path / f"case{next(counter)}"
        folder.mkdir()
        assert old in SOURCE
        (folder / "kernels_here.py").write_text(SOURCE.replace(old, new, 1) if old else SOURCE)
        (folder / "limits.py").write_text(floor)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, "limits", raising=False)
        spec = importlib.util.spec_from_file_location(next(names), folder / "kernels_here.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        sys.modules.pop("limits", None)
        return module.features.digest, module.counted.digest

    return of


def test_the_same_module_elsewhere_has_the_same_digests(digests):
    assert digests() == digests()
    assert len(set(digests())) == 2
    assert all(len(d) == 64 for d in digests())


@pytest.mark.parametrize(
    "old, new",
    [
        ('"n": len(NAMES)', '"n": 1 + len(NAMES)'),
        ("LIMIT = 1.5", "LIMIT = 1.25"),
        ("LIMIT = 1.5", "LIMIT = np.float32(1.5)"),
        ("linspace(0, 1", "linspace(0, 1.001"),
        ("dtype=np.float32", "dtype=np.float64"),
        ('"a", "c"', '"a", "d"'),
        ("gain: float = 2.0", "gain: float = 2.5"),
        ("return x * SETTINGS.gain", "return SETTINGS.gain * x"),
        ("return 1 + sum", "return 2 + sum"),
        ("make(5)", "make(6)"),
        ("step=3", "step=4"),
        ("linspace(0, 1, 4", "linspace(0, 1, 1"),
        ("x=gg.f32[4]", "x=gg.i32[4]"),
        ('"y": "A"', '"y": "V"'),
    ],
)
def test_a_change_in_source_helper_constant_closure_default_or_form_is_seen(digests, old, new):
    assert digests(old, new)[0] != digests()[0]


@pytest.mark.parametrize(
    "old, new", [('state={"n": 0}', 'state={"n": 1}'), ('"n": s.n + 1}', '"n": s.n + 2}')]
)
def test_a_change_of_the_first_state_or_the_next_is_seen(digests, old, new):
    before, after = digests(), digests(old, new)
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_a_constant_of_a_module_beside_it_is_seen(digests):
    assert digests(floor="FLOOR = 0.75\n")[0] != digests()[0]


@pytest.mark.parametrize(
    "old, new",
    [
        ("OTHER = 7", "OTHER = 8"),
        ("from functools import reduce", "import functools"),
        ("LIMIT = 1.5", "\n\n\nLIMIT = 1.5"),
        ("dtype=np.float32)", "dtype=np.float32) * np.float32(1 + 1e-7)"),
    ],
)
def test_what_the_kernel_does_not_use_and_last_bits_of_tables_are_not(digests, old, new):
    assert digests(old, new) == digests()


def test_a_kernel_typed_into_a_prompt_has_a_digest_of_its_code():
    import ganglion as gg

    def prompt(constant):
        space: dict[str, Any] = {}
        exec(f"def typed(x):\n    return {{'y': [v * {constant} for v in x]}}\n", space)
        return gg.kernel(x=gg.f32[4])(space["typed"]).digest

    assert prompt(2) == prompt(2)
    assert prompt(2) != prompt(3)

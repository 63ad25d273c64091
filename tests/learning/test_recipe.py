"""Recipes: what is refused, with the line where it can be said."""

from pathlib import Path

import numpy as np
import pytest

from ganglion.core.errors import GanglionError
from ganglion.learning.footprint import Footprint
from ganglion.learning.gate import findings
from ganglion.learning.recipe import Examples, Gate, Recipe, examples_of, load_recipe, measures_of

HEAD = "from ganglion.learning.recipe import *\n"


def code_of(call):
    with pytest.raises(GanglionError) as caught:
        call()
    assert caught.value.next_step
    return caught.value.code, str(caught.value)


def written(tmp_path, text):
    file = tmp_path / "some_recipe.py"
    file.write_text(HEAD + text)
    return file


@pytest.mark.parametrize(
    "change, why",
    [
        ("name='a b'", "letters"),
        ("classes=('one',)", "classes"),
        ("student=(Dense(0),)", "wide"),
        ("student=(Dense(5000),)", "wide"),
        ("student=(Convolution(4, (2, 3)),)", "even"),
        ("student=(Dense(4),) * 101", "layers"),
        ("training=Training(epochs=0)", "epochs"),
        ("training=Training(epochs=10_001)", "epochs"),
        ("training=Training(batch=0)", "batch"),
        ("teacher_training=Training(learning_rate=0.0)", "rate"),
        ("distillation=Distillation(temperature=0.0)", "temperature"),
        ("distillation=Distillation(weight=1.5)", "weight"),
        ("distillation=Distillation(members=0)", "members"),
        ("seeds=()", "seeds"),
        ("seeds=(1, 1)", "seeds"),
        ("seeds=tuple(range(65))", "seeds"),
    ],
)
def test_values_outside_their_limits_are_refused(tmp_path, change, why):
    given = {"name": "'a'", "classes": "('x', 'y')", "data": "lambda d: {}"}
    key, _, value = change.partition("=")
    given[key] = value
    text = f"r = Recipe({', '.join(f'{k}={v}' for k, v in given.items())})"
    code, message = code_of(lambda: load_recipe(written(tmp_path, text)))
    assert code == "learning.recipe"
    assert why in message


@pytest.mark.parametrize("text", ["", "a = Recipe('a', ('x', 'y'), dict)\nb = Recipe('b', ('x', 'y'), dict)"])
def test_a_file_holds_one_recipe(tmp_path, text):
    assert code_of(lambda: load_recipe(written(tmp_path, text)))[0] == "learning.recipe"
    assert code_of(lambda: load_recipe(tmp_path / "none.py"))[0] == "learning.recipe"


def test_what_a_recipe_raises_is_said_with_its_line(tmp_path):
    code, message = code_of(lambda: load_recipe(written(tmp_path, "x = 1\ny = 1 / 0\n")))
    assert code == "learning.recipe-code"
    assert "some_recipe.py:3" in message
    text = "def data(d):\n    raise KeyError('gone')\nr = Recipe('a', ('x', 'y'), data, measures=lambda a, d: 1 / 0)\n"
    recipe = load_recipe(written(tmp_path, text))
    code, message = code_of(lambda: examples_of(recipe, tmp_path))
    assert code == "learning.recipe-code"
    assert "some_recipe.py:3" in message
    assert code_of(lambda: measures_of(recipe, lambda x: x, tmp_path))[0] == "learning.recipe-code"


def test_files_beside_a_recipe_can_be_imported(tmp_path):
    (tmp_path / "beside_it.py").write_text("NAMES = ('x', 'y')\n")
    recipe = load_recipe(written(tmp_path, "import beside_it\nr = Recipe('a', beside_it.NAMES, dict)\n"))
    assert recipe.classes == ("x", "y")


GOOD = Examples(np.zeros((3, 2), np.float32), np.array([0, 1, 1]))


@pytest.mark.parametrize(
    "examples",
    [
        Examples(np.zeros((0, 2), np.float32), np.zeros(0, np.int64)),
        Examples(np.zeros((2, 2), np.float32), np.array([0, 1, 1])),
        Examples(np.zeros((3, 2), np.float64), np.array([0, 1, 1])),
        Examples(np.zeros((3, 2, 2), np.float32), np.array([0, 1, 1])),
        Examples(np.full((3, 2), np.nan, np.float32), np.array([0, 1, 1])),
        Examples(np.zeros((3, 2), np.float32), np.array([0, 1, 2])),
        Examples(np.zeros((3, 2), np.float32), np.array([0, -1, 1])),
        Examples(np.zeros((3, 4), np.float32), np.array([0, 1, 1])),
    ],
)
def test_examples_of_another_form_are_refused(tmp_path, examples):
    recipe = Recipe("a", ("x", "y"), lambda _: {"train": GOOD, "check": examples})
    code, message = code_of(lambda: examples_of(recipe, tmp_path))
    assert code == "learning.examples"
    assert "'check'" in message


def test_a_digest_is_of_contents():
    other = Examples(GOOD.inputs, np.array([0, 1, 0]))
    assert GOOD.digest == Examples(GOOD.inputs.copy(), GOOD.classes.copy()).digest
    assert GOOD.digest != other.digest
    assert GOOD.digest != Examples(GOOD.inputs + 1, GOOD.classes).digest


def test_a_gate_holds_and_misses_and_takes_nothing_unmeasured():
    gate = Gate(at_least={"accuracy.check": 0.9}, at_most={"ram_bytes": 100, "instructions": 5})
    sizes = Footprint("cortex-m4f", None, 100, None, None, ("instructions: unicorn",))
    found = findings(gate, {"accuracy.check": 0.9}, sizes)
    assert [f.held for f in found] == [True, True, False]
    assert "not measured" in found[2].line()
    assert [f.held for f in findings(gate, {"accuracy.check": 0.89}, sizes)] == [False, True, False]
    assert code_of(lambda: findings(Gate(at_least={"speed": 1}), {}, sizes))[0] == "learning.measure"


def test_a_model_of_the_reference_is_named_in_the_error():
    """What a refused recipe is compared with must be there."""
    assert (Path(__file__).parents[2] / "examples/feeder/fault_recipe.py").is_file()
    assert (Path(__file__).parents[2] / "docs/reference/models.md").is_file()

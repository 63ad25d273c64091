"""Finding the flow of a directory: what may be in it, and every way in which it can fail."""

import os
import sys

import pytest

from ganglion.core.errors import FlowError, GanglionError
from ganglion.flow.assignment import Assignment
from ganglion.flow.load import load_flow, load_planned

FLOW = """
import ganglion as gg
flow = gg.Flow("tiny")
flow.source("level", gg.Frame(), every="1s").sink("kept")
"""

WRONG = [
    ("raises", FLOW + "1 / 0\n", "flow.code", "ZeroDivisionError"),
    ("names the line", FLOW + "1 / 0\n", "flow.code", "flow.py:5"),
    ("syntax", "flow = = 5", "flow.code", "SyntaxError"),
    ("missing module", "import no_such_module_of_ours", "flow.code", "no_such_module_of_ours"),
    ("leaves", FLOW + "raise SystemExit(0)", "flow.code", "SystemExit"),
    ("no flow", "x = 1", "flow.missing", "0 flows"),
    ("empty", "", "flow.missing", "0 flows"),
    ("two flows", FLOW + "other = gg.Flow('other')\n", "flow.missing", "2 flows"),
    ("nothing in it", "import ganglion as gg\nflow = gg.Flow('tiny')\n", "flow.open", "the flow"),
    ("loose end", FLOW + "flow.source('loose', gg.Frame(), every='1s')\n", "flow.open", "loose"),
    ("an error of ours", "import ganglion as gg\nflow = gg.Flow('Tiny!')", "flow.name", "Tiny!"),
    ("a unit", FLOW.replace("1s", "1 fortnight"), "unit.duration", "fortnight"),
]


@pytest.mark.parametrize("text, code, says", [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_a_wrong_flow_file(tmp_path, text, code, says):
    (tmp_path / "flow.py").write_text(text)
    before = list(sys.path)
    with pytest.raises(GanglionError) as caught:
        load_flow(tmp_path)
    assert caught.value.code == code
    assert says in caught.value.what
    assert caught.value.why
    assert caught.value.next_step
    assert sys.path == before


@pytest.mark.parametrize("name", ["", "nowhere", "flow.py"])
def test_a_directory_without_a_flow(tmp_path, name):
    (tmp_path / "other.py").write_text(FLOW)
    with pytest.raises(FlowError) as caught:
        load_flow(tmp_path / name)
    assert caught.value.code == "flow.missing"


def test_a_flow_under_two_names_is_one_flow(tmp_path):
    (tmp_path / "flow.py").write_text(FLOW + "same = flow\n")
    assert load_flow(tmp_path).name == "tiny"


def test_a_relative_directory_will_do(tmp_path, monkeypatch):
    (tmp_path / "flow.py").write_text(FLOW)
    monkeypatch.chdir(tmp_path)
    assert load_flow(type(tmp_path)()).name == "tiny"


def test_two_directories_may_have_modules_of_one_name(tmp_path):
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "naming.py").write_text(f"NAME = {name!r}\n")
        (folder / "flow.py").write_text("import naming\n" + FLOW.replace('"tiny"', "naming.NAME"))
    assert [load_flow(tmp_path / n).name for n in ("first", "second", "first")] == [
        "first",
        "second",
        "first",
    ]
    assert "naming" not in sys.modules


def test_a_changed_flow_is_read_anew(tmp_path):
    (tmp_path / "flow.py").write_text(FLOW)
    first = load_flow(tmp_path)
    (tmp_path / "flow.py").write_text(FLOW.replace("tiny", "other-and-longer"))
    assert (first.name, load_flow(tmp_path).name) == ("tiny", "other-and-longer")


def test_the_flow_may_change_the_path_itself(tmp_path):
    (tmp_path / "flow.py").write_text("import sys\nsys.path.remove(sys.path[0])\n" + FLOW)
    assert load_flow(tmp_path).name == "tiny"


def test_a_file_is_run_as_it_stands_however_soon_it_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for word in ("kept", "held"):
        texts = {
            "flow.py": FLOW.replace('"kept"', "NAME").replace("import", "from own import NAME\nimport", 1)
        }
        texts["own.py"] = f"NAME = {word!r}\n"
        for name, text in texts.items():
            (tmp_path / name).write_text(text)
            os.utime(tmp_path / name, (1_700_000_000, 1_700_000_000))
        assert word in load_flow(tmp_path)
    for word in ("kept", "held"):
        (tmp_path / "flow.py").write_text(FLOW.replace("kept", word))
        os.utime(tmp_path / "flow.py", (1_700_000_000, 1_700_000_000))
        assert word in load_flow(tmp_path)


def test_only_the_flow_that_was_planned_is_run(tmp_path):
    (tmp_path / "flow.py").write_text(FLOW)
    planned = Assignment("n", "s", "edge", load_flow(tmp_path).digest, {}, {})
    assert load_planned(tmp_path, planned).name == "tiny"
    (tmp_path / "flow.py").write_text(FLOW.replace("kept", "held"))
    with pytest.raises(FlowError) as caught:
        load_planned(tmp_path, planned)
    assert caught.value.code == "flow.changed"
    assert caught.value.next_step

"""``ganglion node``: what is said when it is used wrongly; tests/integration/test_mqtt.py runs nodes."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from ganglion.agent.__main__ import main as agent_main
from ganglion.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def ganglion(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run_agent(_program, words):
        raise SystemExit(agent_main(words[3:]))

    monkeypatch.setattr(os, "execv", run_agent)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["ganglion", "node", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return call


def copied(tmp_path, old="", new=""):
    target = tmp_path / "flow"
    shutil.copytree(EXAMPLES / "sensors", target, ignore=shutil.ignore_patterns("__pycache__"))
    text = (target / "topology.yaml").read_text()
    assert old in text
    (target / "topology.yaml").write_text(text.replace(old, new, 1))
    return str(target)


@pytest.mark.parametrize(
    "options, code",
    [
        (("--site", "nowhere"), "node.site"),
        (("--site", "cloud", "--broker", "mqtt://x"), "node.mqtt"),
        (("--broker", "http://x"), "node.broker"),
    ],
)
def test_wrong_options_are_said(ganglion, tmp_path, options, code):
    status, _, error = ganglion("run", copied(tmp_path), *options)
    assert status == 2
    assert f"[{code}]" in error
    assert "next:" in error


def test_a_gateway_that_owes_its_parent_needs_one(ganglion, tmp_path):
    flow = copied(tmp_path)
    (Path(flow) / "flow.py").write_text(
        (Path(flow) / "flow.py").read_text().replace('at="gateway"', 'at="cloud"')
    )
    status, _, error = ganglion("run", flow)
    assert (status, "[node.parent]" in error) == (2, True)


def test_a_route_that_does_not_fit_the_flow_is_said_at_the_start(ganglion, tmp_path):
    status, _, error = ganglion("run", copied(tmp_path, "stream: readings", "stream: redings"))
    assert status == 2
    assert "[mqtt.route]" in error


def test_fresh_removes_only_what_a_node_left(ganglion, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    ganglion("run", copied(tmp_path, "stream: readings", "stream: redings"), "--dir", "precious", "--fresh")
    assert (tmp_path / "precious" / "file").exists()


def test_a_local_run_says_that_nothing_plays_rows(ganglion, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ganglion", "run", copied(tmp_path)])
    with pytest.raises(SystemExit):
        main()
    assert "[run.rows]" in capsys.readouterr().err


def test_dead_letters_of_no_node(ganglion, tmp_path):
    status, _, error = ganglion("dead-letters", str(tmp_path))
    assert (status, "[node.directory]" in error) == (2, True)
    (tmp_path / "config.json").write_text("{}")
    assert ganglion("dead-letters", str(tmp_path))[1] == "no dead letters are kept\n"

"""``ganglion node``: what is said when it is used wrongly; tests/integration/test_mqtt.py runs nodes."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from ganglion.agent.__main__ import main as agent_main
from ganglion.agent.config import NodeConfig, load_config
from ganglion.cli import main
from ganglion.host.sole import sole_use

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
        (("--parent", "hub"), "node.parent"),
        (("--parent", "tls://hub"), "node.parent"),
        (("--parent", "tls://hub:99999"), "node.parent"),
        (("--parent", "tls://a:1,http://b:2"), "node.parent"),
        (("--parent", "tls://[::1:7422"), "node.parent"),
        (("--site", "cloud", "--parent", "tls://hub:7422"), "node.parent"),
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


@pytest.mark.parametrize("port", ["--coap-port", "--nats-port", "--leaf-port"])
def test_a_port_that_is_none_is_said(ganglion, tmp_path, port):
    status, _, error = ganglion("run", copied(tmp_path), port, "70000")
    assert (status, "65535" in error) == (2, True)


def test_a_directory_in_which_a_node_runs_is_left_alone(ganglion, tmp_path):
    """A second agent would end the first one's message server, and both would write one store."""
    place = tmp_path / "place"
    place.mkdir()
    (place / "config.json").write_text("what it runs with")
    with sole_use(place):
        for words in ((), ("--fresh",)):
            status, _, error = ganglion("run", copied(tmp_path), "--dir", "place", *words)
            assert (status, "[host.in-use]" in error, "next:" in error) == (2, True, True)
            assert (place / "config.json").read_text() == "what it runs with"
            shutil.rmtree(tmp_path / "flow")


def configured(ganglion, tmp_path, monkeypatch, *options, **changed):
    """What the agent would be started with."""

    def start(_program, _words):
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", start)
    status, _, error = ganglion("run", copied(tmp_path, **changed), "--dir", "place", *options)
    assert status == 0, error
    config = load_config(tmp_path / "place" / "config.json")
    assert isinstance(config, NodeConfig)
    return config


def test_a_node_below_a_parent_that_shares_its_work_divides_what_it_sends(ganglion, tmp_path, monkeypatch):
    shared = {"old": "{class: region}", "new": "{class: region, processes: 2}"}
    assert configured(ganglion, tmp_path, monkeypatch, **shared).parent_processes == 2


def test_the_agent_of_a_hub_uses_the_servers_that_the_topology_names(ganglion, tmp_path, monkeypatch):
    named = ["nats://a:4222", "nats://b:4222", "nats://c:4222"]
    hub = {"old": "{class: region}", "new": "{class: region}\n    servers: [" + ", ".join(named) + "]"}
    config = configured(ganglion, tmp_path, monkeypatch, "--site", "cloud", **hub)
    assert (list(config.servers), config.nats_port, config.leaf_port) == (named, 0, 0)


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

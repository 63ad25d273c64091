"""`ganglion site` and `ganglion health` as a person uses them, with wrong input too."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from ganglion.agent.health import Condition


def ganglion(*words):
    command = [sys.executable, "-m", "ganglion.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_identities_are_made_listed_and_withdrawn_and_no_secret_is_printed(tmp_path):
    authority = tmp_path / "authority"
    done = [
        ganglion("site", "init", authority, "--name", "grid"),
        ganglion("site", "join", authority, "gw1", "--out", tmp_path / "gw1", "--host", "10.1.2.3"),
        ganglion("site", "join", authority, "gw2", "--out", tmp_path / "gw2"),
        ganglion("site", "revoke", authority, "gw1"),
        ganglion("site", "list", authority),
    ]
    for one in done:
        assert one.returncode == 0, one.stderr
    listed = done[-1].stdout.splitlines()
    assert [line.split()[:2] for line in listed] == [["gw1", "revoked"], ["gw2", "joined"]]
    printed = "".join(one.stdout + one.stderr for one in done)
    seeds = [p.read_text().strip() for p in authority.glob("*.seed")]
    seeds += [p.read_text().splitlines()[-2] for p in tmp_path.glob("gw?/*.creds")]
    assert len(seeds) == 7
    assert not [s for s in seeds if s in printed]
    assert "PRIVATE KEY" not in printed


def test_wrong_uses_of_site_are_explained(tmp_path):
    authority = tmp_path / "authority"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "torn").mkdir(mode=0o700)
    (tmp_path / "torn" / "site.json").write_text("{")
    (tmp_path / "torn" / "site.json").chmod(0o600)
    for words, code in (
        (("join", authority, "gw1", "--out", tmp_path / "gw1"), "messaging.authority"),
        (("revoke", authority, "gw1"), "messaging.authority"),
        (("list", authority), "messaging.authority"),
        (("join", authority, "GW 1", "--out", tmp_path / "gw1"), "messaging.site"),
        (("join", authority, "gw1", "--out", tmp_path / "full"), "cli.site-out"),
        (("join", authority, "gw1", "--out", tmp_path / "full" / "x"), "cli.site-out"),
        (("join", authority, "gw1", "--out", tmp_path / "gw1", "--host", ""), "cli.site-names"),
        (("join", authority, "gw1", "--out", tmp_path / "gw1", "--host", "a b"), "cli.site-names"),
        (("join", authority, "gw1", "--out", tmp_path / "gw1", "--mqtt-send", ""), "cli.site-names"),
        (("refill", tmp_path / "torn", "nats://127.0.0.1:1", "gw1"), "messaging.identity"),
        (("refill", tmp_path / "nowhere", "nats://127.0.0.1:1", "gw1"), "messaging.identity"),
    ):
        found = ganglion("site", *words)
        assert found.returncode == 2
        assert code in found.stderr, found.stderr
        assert "next:" in found.stderr
        assert "Traceback" not in found.stderr
    ganglion("site", "init", authority)
    again = ganglion("site", "init", authority)
    assert again.returncode == 2
    assert "messaging.authority" in again.stderr
    assert "messaging.members" in ganglion("site", "revoke", authority, "gw1").stderr


def node(run_dir, name, **report):
    directory = run_dir / "nodes" / name
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    if report:
        (directory / "report.json").write_text(json.dumps(report))


def test_health_tells_what_each_node_said_and_who_is_silent(tmp_path):
    now = time.monotonic_ns()
    away = Condition("health.uplink-away", "warning", "gw1 is an island", "look").to_json()
    node(tmp_path, "gw1", phase="ready", at_ns=now, health=[away])
    node(tmp_path, "gw2", phase="ready", at_ns=now - 3600 * 10**9, health=[])
    node(tmp_path, "edge1", phase="stopped", at_ns=now, health=[])
    node(tmp_path, "cloud")
    found = ganglion("health", tmp_path, "--json")
    assert found.returncode == 1, found.stderr
    codes = {name: [c["code"] for c in conditions] for name, conditions in json.loads(found.stdout).items()}
    assert codes == {
        "gw1": ["health.uplink-away"],
        "gw2": ["health.silent"],
        "edge1": ["health.stopped"],
        "cloud": ["health.no-report"],
    }
    text = ganglion("health", tmp_path).stdout
    assert "gw1 is an island" in text
    assert "next: look" in text


def test_health_of_one_nodes_own_directory(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    report = {"phase": "stopped", "at_ns": 1, "health": []}
    (tmp_path / "report.json").write_text(json.dumps(report))
    found = ganglion("health", tmp_path, "--json")
    assert found.returncode == 0, found.stderr
    assert [c["code"] for c in json.loads(found.stdout)[tmp_path.name]] == ["health.stopped"]


def test_health_of_a_directory_without_nodes_is_explained(tmp_path):
    found = ganglion("health", tmp_path)
    assert found.returncode == 2
    assert "run.health" in found.stderr

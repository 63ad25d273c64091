"""Scenario files: what is read, and what is refused with the key that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from ganglion.core.errors import RunError
from ganglion.sim.virtual.play import lay
from ganglion.sim.virtual.scenario import BUILT_IN, built_in_names, load_scenario

MINIMAL = """
scenario = 1
flow = "meters"
checkers = ["alive"]
[workload]
lasts = "1min"
"""


@pytest.fixture
def write(tmp_path):
    (tmp_path / "meters").symlink_to(BUILT_IN / "meters")

    def write(text: str) -> Path:
        path = tmp_path / "own.toml"
        path.write_text(text)
        return path

    return write


def test_a_file_is_read_with_its_units(write):
    loaded = load_scenario(write(MINIMAL + '[[fault]]\nkind = "cut"\nat = ["gw1", "edge"]\nevery = "5min"\n'))
    assert loaded.name == "own"
    assert loaded.scenario.workload.lasts == 60 * 10**9
    assert loaded.scenario.fault[0].every == 300 * 10**9
    assert sorted(loaded.topology.sites) == ["cloud", "edge1", "gw1", "gw2"]


TOPOLOGY = """
[topology]
topology = 1
currency = "EUR"
electricity_per_kwh = 0.3
[topology.classes.box]
ns_per_call = 1
ns_per_operation = 1
hop_us = 1
memory = "1GB"
watts_idle = 1
watts_busy = 1
[topology.sites.cloud]
tier = "cloud"
jurisdiction = "IE"
node = {class = "box"}
[topology.sites.gw9]
tier = "gateway"
parent = "cloud"
jurisdiction = "DE"
node = {class = "box"}
uplink = {latency = "1ms", bandwidth = "1Mbit"}
[topology.devices.meter]
class = "box"
count = 3
gateways = ["gw9"]
actuators = ["breaker"]
link = {latency = "1ms", bandwidth = "1Mbit"}
"""


def test_a_topology_may_stand_in_the_file(write):
    assert sorted(load_scenario(write(MINIMAL + TOPOLOGY)).topology.sites) == ["cloud", "gw9"]


def test_a_hub_of_several_servers_has_no_twin(write):
    servers = 'servers = ["nats://a:1", "nats://b:1", "nats://c:1"]'
    text = TOPOLOGY.replace('tier = "cloud"', f'tier = "cloud"\n{servers}')
    with pytest.raises(RunError) as caught:
        load_scenario(write(MINIMAL + text))
    assert "cloud has several message servers" in str(caught.value)


def test_every_built_in_scenario_is_read():
    assert {"calm", "islands", "crashes", "blackouts", "disks", "radio", "clocks", "storm"} <= set(
        built_in_names()
    )
    for name in built_in_names():
        assert load_scenario(Path(name)).name == name


@pytest.mark.parametrize(
    "text, told",
    [
        ("", "scenario"),
        ("scenario = 1\nflow", "cannot be read"),
        (MINIMAL.replace("1min", "soon"), "workload.lasts"),
        (MINIMAL.replace("alive", "lively"), "checkers.0"),
        (MINIMAL.replace('["alive"]', "[]"), "checkers"),
        (MINIMAL.replace("scenario = 1", "scenario = 2"), "scenario"),
        (MINIMAL + "devices = 0\n", "workload.devices"),
        (MINIMAL + "colour = 1\n", "workload.colour"),
        (MINIMAL + '[[fault]]\nkind = "flood"\nat = ["gw1"]\nevery = "1s"\n', "fault.0.kind"),
        (MINIMAL + '[[fault]]\nkind = "cut"\nat = ["gw7"]\nevery = "1s"\n', "gw7"),
        (MINIMAL + '[[fault]]\nkind = "disk-full"\nat = ["device"]\nevery = "1s"\n', "device"),
        (
            MINIMAL + '[[fault]]\nkind = "slow-link"\nat = ["gw1"]\nevery = "1s"\nrate = "fast"\n',
            "fault.0.rate",
        ),
        *(
            (MINIMAL + f'[[fault]]\nkind = "{kind}"\nat = ["edge", "cloud"]\nevery = "1s"\n', "has no uplink")
            for kind in ("cut", "slow-link", "bad-radio")
        ),
        (MINIMAL + 'restarts_every = "1min"\n', "workload.restarts_every"),
        (MINIMAL + "[topology]\ntopology = 1\n", "topology"),
        (MINIMAL.replace('"meters"', '"nowhere"'), "topology.yaml"),
    ],
)
def test_what_is_wrong_is_named(write, text, told):
    with pytest.raises(RunError) as caught:
        load_scenario(write(text))
    assert caught.value.code == "run.scenario"
    assert told in caught.value.why


@pytest.mark.parametrize(
    "sources",
    [
        'made.source("rows", gg.Row(x=gg.f32), every="1s").sink("kept")',
        '[made.source(n, gg.Frame(2), every="1s").sink(f"kept_{n}") for n in "ab"]',
    ],
)
def test_a_flow_whose_sources_no_device_of_a_world_measures_is_refused(tmp_path, sources):
    (tmp_path / "meters").mkdir()
    (tmp_path / "meters" / "flow.py").write_text(
        f"import ganglion as gg\nflow = made = gg.Flow('odd')\n{sources}\n"
    )
    (tmp_path / "own.toml").write_text(MINIMAL + TOPOLOGY)
    with pytest.raises(RunError) as caught:
        lay(load_scenario(tmp_path / "own.toml"))
    assert caught.value.code == "run.scenario"
    assert "the frames of one source" in caught.value.why


def test_a_topology_in_other_letters_is_said(tmp_path):
    (tmp_path / "meters").mkdir()
    (tmp_path / "meters" / "topology.yaml").write_bytes("# z\u00e4hler\n".encode("latin-1"))
    (tmp_path / "own.toml").write_text(MINIMAL)
    with pytest.raises(RunError) as caught:
        load_scenario(tmp_path / "own.toml")
    assert "topology.yaml is not text in UTF-8" in caught.value.why


def test_a_missing_file_is_told_with_what_there_is(tmp_path):
    with pytest.raises(RunError) as caught:
        load_scenario(tmp_path / "nothing.toml")
    assert "storm" in caught.value.why


UNREADABLE = {
    "nosuch.toml": (None, "there is no such file; built in are "),
    "folder": (b"", "it is a folder, not a file"),
    "latin.toml": (b"x = '\xe4'", "it is not text in UTF-8"),
    "torn.toml": (b"x = [", "it cannot be read as TOML: "),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_said_in_words(name: str, tmp_path: Path) -> None:
    content, why = UNREADABLE[name]
    if name == "folder":
        (tmp_path / name).mkdir()
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RunError) as caught:
        load_scenario(tmp_path / name)
    assert caught.value.code == "run.scenario" and caught.value.why.startswith(why)
    assert "Errno" not in str(caught.value)

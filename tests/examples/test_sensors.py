"""The sensors example: its flow and its plan; tests/integration/test_mqtt.py runs it."""

from pathlib import Path

from ganglion.flow.load import load_flow
from ganglion.placement import plan
from ganglion.sim.run import load_topology

SENSORS = Path(__file__).parents[2] / "examples" / "sensors"


def test_everything_runs_at_the_gateway_and_nothing_is_owed_upwards():
    spec, topology = load_flow(SENSORS), load_topology(SENSORS)
    assignment = plan(spec, topology).assignments()["gw"]
    assert set(assignment.runs) == {"hot", "alarm_raise", "good", "means", "windows"}
    assert not assignment.exports
    mqtt = topology.sites["gw"].mqtt
    assert mqtt is not None
    assert [r.stream for r in mqtt.routes] == ["readings"]

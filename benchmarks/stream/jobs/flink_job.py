"""The job in Flink SQL, at parallelism 1 in one process (its local mini cluster): python flink_job.py PORT_IN PORT_OUT.

There is no MQTT connector beside Flink in its package, so lines come and go by TCP (`flink_bridge.py` joins them to
the broker): `socketTextStream` and `writeToSocket`, which Flink's Python API does not show, by its gateway to Java.
Event time is ts with no delay, ascending but not strictly, as several rows share a millisecond; the buffer time-out
is 5 ms, as Flink's documentation advises where latency matters (it is 100 ms). No checkpoints: a socket cannot be
read again, so it is not durable.
"""

from __future__ import annotations

import sys

from pyflink.common import Configuration
from pyflink.datastream import DataStream, StreamExecutionEnvironment
from pyflink.java_gateway import get_gateway
from pyflink.table import DataTypes, Schema, StreamTableEnvironment

TS = "CAST(JSON_VALUE(f0, '$.ts') AS BIGINT)"
FIELDS = {
    "sensor": "JSON_VALUE(f0, '$.sensor')",
    "ts": TS,
    "temp": "JSON_VALUE(f0, '$.temp' RETURNING DOUBLE)",
    "q": "JSON_VALUE(f0, '$.q' RETURNING INTEGER)",
    "et": f"TO_TIMESTAMP_LTZ({TS}, 3)",
}
ALARMS = """
SELECT JSON_OBJECT('sensor' VALUE sensor, 'ts' VALUE ts, 'temp' VALUE temp) || CHR(10) AS line
FROM readings WHERE q = 0 AND temp > 100
"""
WINDOWS = """
SELECT JSON_OBJECT('sensor' VALUE sensor, 'start' VALUE start_ms, 'mean' VALUE mean, 'count' VALUE n) || CHR(10) AS line
FROM (
  SELECT sensor, 1000 * UNIX_TIMESTAMP(CAST(window_start AS STRING)) AS start_ms, AVG(temp) AS mean, COUNT(*) AS n
  FROM TABLE(TUMBLE(TABLE readings, DESCRIPTOR(et), INTERVAL '1' SECOND)) WHERE q = 0
  GROUP BY window_start, window_end, sensor)
"""


def main() -> None:
    port_in, port_out = int(sys.argv[1]), int(sys.argv[2])
    settings = Configuration()
    settings.set_string("parallelism.default", "1")
    settings.set_string("execution.buffer-timeout.interval", "5 ms")
    environment = StreamExecutionEnvironment.get_execution_environment(settings)
    tables = StreamTableEnvironment.create(environment)
    tables.get_config().set("table.local-time-zone", "UTC")
    java = environment._j_stream_execution_environment
    lines = DataStream(java.socketTextStream("127.0.0.1", port_in))
    schema = Schema.new_builder().column("f0", DataTypes.STRING())
    for name, expression in FIELDS.items():
        schema = schema.column_by_expression(name, expression)
    schema = schema.watermark("et", "et - INTERVAL '0.001' SECOND")
    tables.create_temporary_view("readings", tables.from_data_stream(lines, schema.build()))
    jvm = get_gateway().jvm
    string = jvm.java.lang.Class.forName("java.lang.String")
    text = jvm.org.apache.flink.api.common.serialization.SimpleStringSchema()
    for query in (ALARMS, WINDOWS):
        stream = tables._j_tenv.toDataStream(tables.sql_query(query)._j_table, string)
        stream.writeToSocket("127.0.0.1", port_out, text)
    environment.execute("stream")


if __name__ == "__main__":
    main()

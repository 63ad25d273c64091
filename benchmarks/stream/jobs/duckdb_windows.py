"""The windows by DuckDB over all readings at once: python duckdb_windows.py READINGS.jsonl OUT.jsonl."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import duckdb

QUERY = """
SELECT {key} AS key, ts - ts % 1000 AS start, count(*) AS count, avg(temp) AS mean
FROM read_json(?, format='newline_delimited', columns={{ts: 'BIGINT', sensor: 'VARCHAR', temp: 'DOUBLE', q: 'INTEGER'}})
WHERE q = 0 GROUP BY 1, 2
"""


def main() -> None:
    source, out = sys.argv[1:]
    lines = []
    for key in ("sensor", "'all'"):
        rows = duckdb.execute(QUERY.format(key=key), [source]).fetchall()
        lines += [json.dumps(dict(zip(("key", "start", "count", "mean"), row, strict=True))) for row in rows]
    Path(out).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

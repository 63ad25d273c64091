"""``python -m tests.chaos [CASE ...] [--seed N] [--scale X] [--json FILE]``: the table of the chaos suite."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.cases import CASES, CannotRunError, Case
from tests.chaos.field import FAULTS, field_of
from tests.chaos.judge import Row, table

SCALE_VARIABLE = "GANGLION_CHAOS_SCALE"


def scale() -> float:
    """How much of each wait and of each number of kills is done: 1 for all."""
    return float(os.environ.get(SCALE_VARIABLE, "1"))


async def run_case(case: Case, root: Path, seed: int, factor: float) -> Row:
    """One line of the table; ``root`` must be new."""
    paths = [str(FAULTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    try:
        if case.before is not None:
            case.before(root)
        async with field_of(
            root, case.name, seed, factor, radio=case.radio, clustered=case.clustered
        ) as field:
            await field.start()
            await case.run(field)
            return await field.finish()
    finally:
        if case.after is not None:
            case.after(root)
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def main() -> int:
    """Exit status 1 when a row is not sound."""
    parser = argparse.ArgumentParser(prog="chaos", description="real servers, real agents, real faults")
    parser.add_argument("cases", nargs="*", help=f"parts of names of: {', '.join(c.name for c in CASES)}")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--scale", type=float, default=scale())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave every case's state and logs here")
    asked = parser.parse_args()
    chosen = [c for c in CASES if not asked.cases or any(a in c.name for a in asked.cases)]
    print(f"seed {asked.seed}, scale {asked.scale:g}, {len(chosen)} cases", flush=True)
    rows: list[Row] = []
    failed = 0
    for case in chosen:
        root = Path(tempfile.mkdtemp(prefix="chaos-", dir=asked.keep))
        try:
            rows.append(asyncio.run(run_case(case, root, asked.seed, asked.scale)))
            failed += not rows[-1].sound
            print(table(rows[-1:]).splitlines()[1], flush=True)
        except CannotRunError as reason:
            print(f"skipped: {reason}", flush=True)
        except Exception as error:  # noqa: BLE001 # the other cases still run, and this one counts as failed
            failed += 1
            print(f"{case.name}: did not end: {type(error).__name__}: {error}", flush=True)
        finally:
            if asked.keep is None:
                shutil.rmtree(root, ignore_errors=True)
    print("\n" + table(rows))
    if asked.json is not None:
        content = {"seed": asked.seed, "scale": asked.scale, "rows": [r.to_json() for r in rows]}
        asked.json.write_text(json.dumps(content, indent=1))
    print(f"{len(rows)} rows, {failed} not sound")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

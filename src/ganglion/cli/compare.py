"""``ganglion compare``: whether runs on the same frames decided the same, wherever their stages ran."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer

from ganglion.sim.compare import compare, text

EXIT_DIFFERENT = 1


def compare_command(
    run_dirs: Annotated[
        list[Path], typer.Argument(metavar="RUN_DIR...", help="What `ganglion run --run-dir` left behind.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Compare the rows and commands of runs bit for bit: same frames, stages forced to other tiers.

    Exit status 0: all are alike. 1: some are not. 2: the runs cannot be compared.
    """
    result = compare(run_dirs)
    content = orjson.dumps(result.to_json(), option=orjson.OPT_INDENT_2).decode() + "\n"
    sys.stdout.write(content if as_json else text(result))
    if not result.same:
        raise typer.Exit(EXIT_DIFFERENT)

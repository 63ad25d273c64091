"""The one command, ``ganglion``: plan, run, flow. It parses, shows and sets the exit status; nothing else."""

from ganglion.cli.main import main

__all__ = ["main"]

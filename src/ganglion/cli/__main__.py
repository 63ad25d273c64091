"""``python -m ganglion.cli``."""

from ganglion.cli.main import main

main()

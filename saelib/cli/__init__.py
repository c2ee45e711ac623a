"""The command line: `saelib --help`."""

from saelib.cli.main import main

__all__ = ["main"]

"""The command `saelib`; see `saelib --help`."""

from saelib.cli.main import main

__all__ = ["main"]

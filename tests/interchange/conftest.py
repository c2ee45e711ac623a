"""The SAEs that are exchanged here are those of `tests.saved_saes`."""

from tests.saved_saes import fit, make, rows, run

__all__ = ["fit", "make", "rows", "run"]

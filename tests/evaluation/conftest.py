"""Measures are tested on what the stage `train` leaves, and on SAEs of every kind."""

from tests.saved_saes import fit, make, rows, run
from tests.train.conftest import _one_thread, statistics, train_on

__all__ = ["_one_thread", "fit", "make", "rows", "run", "statistics", "train_on"]

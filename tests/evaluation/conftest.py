"""Measures are tested on what the stage `train` leaves, by its fixtures."""

from tests.train.conftest import _one_thread, statistics, train_on

__all__ = ["_one_thread", "statistics", "train_on"]

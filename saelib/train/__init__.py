"""Stage `train`: SAEs of one variant on one layer, over all learning rates."""

from saelib.train.loop import train_from_store, train_from_stream
from saelib.train.sweep import Subject, Sweep

__all__ = ["Subject", "Sweep", "train_from_store", "train_from_stream"]

"""Stage `train`: SAEs of one variant on one layer, over all learning rates."""

from saelib.train.start import LayerData, start_sweep
from saelib.train.sweep import Destination, Subject
from saelib.train.training import train_from_store, train_from_stream

__all__ = ["Destination", "LayerData", "Subject", "start_sweep", "train_from_store", "train_from_stream"]

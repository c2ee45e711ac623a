"""Stage `train`: SAEs of one variant on one layer, over all learning rates."""

from saelib.train.sweep import Subject, train_variant

__all__ = ["Subject", "train_variant"]

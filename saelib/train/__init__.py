"""Stage `train`: TopK SAEs of one variant on one layer, over all learning rates."""

from saelib.train.model import TopKSAE
from saelib.train.sweep import Subject, train_variant

__all__ = ["Subject", "TopKSAE", "train_variant"]

"""Synthetic activations whose true features are known: sparse sums of unit vectors plus an offset of any size."""

from saelib.synthetic.data import SyntheticData, make_data

__all__ = ["SyntheticData", "make_data"]

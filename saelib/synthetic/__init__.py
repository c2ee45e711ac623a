"""Synthetic activations whose true features are known."""

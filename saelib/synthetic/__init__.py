"""Synthetic activations whose features are known."""

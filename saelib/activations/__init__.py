"""Activations as rows, whatever file they lie in."""

"""Activations as rows, whatever file they are stored in."""

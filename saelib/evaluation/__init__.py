"""Measures of trained SAEs, ours or anyone's."""

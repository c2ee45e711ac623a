"""Measures how costs grow with size on this machine, fits the growth and projects it to a suite."""

"""Modules that find, check and load weights and users' code."""

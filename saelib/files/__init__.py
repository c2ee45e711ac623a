"""Reads and writes files: atomic publication, sealed JSON, tables."""

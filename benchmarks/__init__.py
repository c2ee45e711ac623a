"""Measures the costs of saelib's hot paths against a floor and a plain reference: `python -m benchmarks NAME`."""

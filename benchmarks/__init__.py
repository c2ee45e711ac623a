"""What saelib's hot paths cost, against a floor and a plain reference: `python -m benchmarks NAME`."""

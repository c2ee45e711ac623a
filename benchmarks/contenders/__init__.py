"""One script per contender; `benchmarks.training` runs each in its own process."""

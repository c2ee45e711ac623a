"""The law of `saelib recovery` against trainings that it has not seen."""

"""Will the features of a sparse autoencoder be born dead? Measure, explain and prevent it."""

__version__ = "0.1.0"

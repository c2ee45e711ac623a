"""Sparse autoencoders: the model, every way to train one, and the file it is kept in."""

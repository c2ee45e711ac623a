"""A training step of several SAEs at once on a GPU, as one matrix product and a few Triton kernels."""

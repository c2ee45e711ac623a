"""Training with torch's autograd: every method, on every device; the reference for the kernels."""

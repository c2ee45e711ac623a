"""The public functions of `import saelib`. Each takes arrays, tensors, paths or opened activations."""

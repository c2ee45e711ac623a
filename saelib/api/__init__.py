"""What `import saelib` offers: each function takes arrays, tensors, paths or opened activations alike."""

"""Networks that are written here because their published code cannot be run, or should not be."""

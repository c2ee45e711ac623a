"""A failure drill on one machine: break runs of the miniature suite in every way at hand, and see what comes of it."""

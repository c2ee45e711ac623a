"""A failure drill on one machine: breaks runs of the miniature suite in many ways and checks the outcome."""

"""The device that a job computes on: one GPU for each job on a machine, and clear words if its memory runs out."""

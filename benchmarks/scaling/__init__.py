"""How cost grows with size: measured on this machine, fitted, projected to a suite."""

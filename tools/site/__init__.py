"""Pages of the documentation's site that are written while it is built: `make docs`."""

"""How weights and users' code are found, checked and loaded."""

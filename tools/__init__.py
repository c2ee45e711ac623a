"""Tools that try saelib out as a whole, in addition to the tests."""

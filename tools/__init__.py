"""What tries saelib out as a whole, beside the tests."""

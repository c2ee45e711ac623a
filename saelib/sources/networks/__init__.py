"""Networks written here, because their published code does not run or should not."""

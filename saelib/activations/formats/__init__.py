"""One module for each file format: it opens a file and returns one of its arrays as a `Found`."""

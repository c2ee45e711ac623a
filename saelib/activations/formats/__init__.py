"""How arrays lie in files, one module a format: each opens a file and gives one array of it as a `Found`."""

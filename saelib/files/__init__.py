"""Files that appear whole or not at all: publication, sealed JSON, tables."""

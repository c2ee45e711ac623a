"""Lets `python -m saelib` do what the command `saelib` does."""

from saelib.cli import main

if __name__ == "__main__":
    main()

"""Checks the GPU path, counts its waits for the host, and compares it with the floor: `python -m benchmarks gpu`."""


def main(argv: list[str]) -> None:
    """Runs the command; its modules are imported here, because contenders' processes need `clock` alone."""
    from benchmarks.gpu.command import main

    main(argv)

"""Is the GPU path right, does it wait for the host, and how far is it from the floor? `python -m benchmarks gpu`."""


def main(argv: list[str]) -> None:
    """Runs the command; its modules are imported here, because contenders' processes need `clock` alone."""
    from benchmarks.gpu.command import main

    main(argv)

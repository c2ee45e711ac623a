"""Defines the exception for mistakes that a user can fix."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input: the message says what was wrong, where (file, key, layer) and what would be right.

    Scripts and the command line print the message alone, without a traceback, and exit with 1.
    """


def exit_on_user_error(main: Callable[[], None]) -> None:
    """Runs `main`, and turns a `UserError`, too little memory or a refused write into one line and exit code 1."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except MemoryError as error:
        sys.exit(f"error: this needs more memory than there is ({error})".removesuffix(" ()"))
    except OSError as error:
        if error.errno is None or (error.filename is None and error.strerror is None):
            raise
        where = f": {error.filename}" if error.filename else ""
        sys.exit(f"error: {error.strerror}{where}")

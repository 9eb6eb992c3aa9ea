"""The script ``situs``, and ``python -m situs`` where it is not on the path."""

import sys

from situs.errors import Terminated
from situs.signals import unwinding


def main() -> None:
    """Run the command line; a signal while it is still being imported ends in one line, too."""
    try:
        with unwinding():
            from situs.cli import main as run  # noqa: PLC0415 - what a signal may fall into
    except (KeyboardInterrupt, Terminated) as stopped:
        sys.stderr.write("stopped before anything was begun\n")
        sys.exit(Terminated.UNSAVED if isinstance(stopped, Terminated) else 130)
    run()


if __name__ == "__main__":
    main()

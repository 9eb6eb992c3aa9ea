"""The script ``situs``, and ``python -m situs`` where it is not on the path."""

import sys


def main() -> None:
    """Run the command line; a Ctrl-C while it is still being imported ends in one line, too."""
    try:
        from situs.cli import main as run  # noqa: PLC0415 - what a Ctrl-C may fall into
    except KeyboardInterrupt:
        sys.stderr.write("stopped before anything was begun\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()

"""``python -m situs``: the command line, where the script is not on the path."""

from situs.cli import main

if __name__ == "__main__":
    main()

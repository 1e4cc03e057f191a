"""Starts the command line: the program `mom`, and `python -m mixture_of_mamba`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())

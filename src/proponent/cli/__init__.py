"""The command line: argument parsing only; each command calls public functions and prints what they return.

Results go to stdout, progress and hints to stderr. Heavy imports happen inside the commands, so that --help is light.
"""

from proponent.cli.door import app, main

__all__ = ["app", "main"]

"""The command line: commands read their arguments, call the library and print what it returns.

Results go to stdout, progress and hints to stderr. Heavy imports happen inside the commands, so that --help is light.
"""

from proponent.cli.application import app, main

__all__ = ["app", "main"]

"""`python -m proponent.cli` is `proponent`."""

from proponent.cli.application import main

main()

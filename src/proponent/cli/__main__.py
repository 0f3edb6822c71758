"""`python -m proponent.cli` is `proponent`."""

from proponent.cli.door import main

main()

"""`python -m whence.cli` is `whence`."""

from whence.cli.door import main

main()

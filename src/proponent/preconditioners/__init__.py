"""One module per preconditioner, refit and basis, found by the `kind` of its spec; base.py says what they answer."""

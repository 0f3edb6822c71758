"""One module per preconditioner, refit and basis, looked up by the `kind` of its spec; base.py is the interface."""

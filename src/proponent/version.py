"""The version of proponent, in one place."""

__version__ = "0.1.0"

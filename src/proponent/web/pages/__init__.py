"""The screens of the explorer, one module per group of pages."""

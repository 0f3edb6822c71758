"""The documentation site: `make docs`. Strict: every warning, such as a link that leads nowhere, is an error."""

from proponent.version import __version__

project = "proponent"
release = version = __version__
copyright = "the proponent authors"  # noqa: A001 # Sphinx asks for this name
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_site"]
html_theme = "furo"
html_title = "proponent"
html_static_path: list[str] = []

myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]
suppress_warnings = ["myst.header"]  # tables that scripts write begin where they do

autodoc_default_options = {"members": True, "show-inheritance": False}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autoclass_content = "class"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

"""The site of the documentation: `make docs` (see docs/decisions/0014-documentation.md)."""

project = "Certcourier"
author = "the authors of Certcourier"
copyright = "the authors of Certcourier"  # noqa: A001, Sphinx's name for it
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

myst_heading_anchors = 3  # links such as operations.md#the-doctor
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["myst.directory_link"]

html_theme = "furo"
html_title = "Certcourier"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_theme_options: dict[str, list[str]] = {"footer_icons": [], "top_of_page_buttons": []}
# What looks like text in the docs is text: no smart quotes, no typographic dashes in options.
smartquotes = False

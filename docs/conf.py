"""The documentation site: python -m sphinx -W docs build/site."""

import shutil
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import download_reference
from sphinx.application import Sphinx

import pyuffd

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS))

project = "pyuffd"
author = "the pyuffd developers"
version = release = pyuffd.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["results*"]
suppress_warnings = ["myst.header"]

html_theme = "furo"
html_title = f"pyuffd {version}"
html_show_sphinx = False

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True}
napoleon_use_rtype = False

# What is measured is published as it lies in the tree, so that a report finds its figures.
PUBLISHED = ("results", "results-criu", "results-guard", "results-kernels")


def link_to_published(app: Sphinx, tree: nodes.document, name: str) -> None:
    """Turn downloads of published results into links to them."""
    for node in list(tree.findall(download_reference)):
        path = Path(node["reftarget"])
        inside = next((part for part in PUBLISHED if part in path.parts), None)
        if inside is None:
            continue
        up = "../" * name.count("/")
        target = up + "/".join(path.parts[path.parts.index(inside) :])
        node.replace_self(nodes.reference("", "", *node.children, refuri=target))


def show_types(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Show the types of arguments, with which docstrings of the extension end, as code."""
    if "Types:" in lines:
        at = lines.index("Types:")
        lines[at:] = ["Types:", *(f"    ``{line.strip()}``" for line in lines[at + 1 :] if line.strip())]


def publish(app: Sphinx, error: Exception | None) -> None:
    """Copy the results beside the pages."""
    if error is None and app.builder.format == "html":
        for folder in PUBLISHED:
            shutil.copytree(DOCS / folder, Path(app.outdir) / folder, dirs_exist_ok=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register them."""
    app.connect("autodoc-process-docstring", show_types, priority=100)
    app.connect("doctree-resolved", link_to_published, priority=10)
    app.connect("build-finished", publish)
    return {"parallel_read_safe": True}

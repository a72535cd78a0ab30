"""How Sphinx builds the documentation: `make docs` writes it to work/site, where it works from local files."""

import sys
from pathlib import Path

from docutils import nodes

sys.path.insert(0, str(Path(__file__).parents[1]))

from lorax import __version__  # found only now
from scripts import reference

project, author, release = "LoRAX pipeline", "", __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"
nitpicky = False  # types of torch, pandas and others are named, not linked: their pages are not here

myst_heading_anchors = 4  # a heading's anchor as GitHub makes it, so that a link means the same in both places
myst_links_external_new_tab = True

highlight_language = "none"  # blocks are what a terminal shows; Python says so
smartquotes = False  # which makes a dash of every option's two

html_theme = "furo"
html_title = f"LoRAX pipeline {release}"
html_show_copyright = False
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["site.css"]

default_role = "code"  # docstrings have `names` in single quotes
add_module_names = False
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_use_rtype = False


def _from_the_source(app, name, source):
    source[0] = reference.source(Path(app.env.doc2path(name)))


def _indented_is_literal(app, what, name, obj, options, lines):
    """Modules' docstrings have drawings and lists of files as Markdown has them: indented, without a mark before."""
    if what == "module":
        for number in range(len(lines) - 1, 0, -1):
            begins = lines[number].startswith("    ") and not lines[number - 1].strip()
            if begins and not any(line.startswith("    ") for line in lines[max(0, number - 2) : number]):
                lines[number:number] = ["::", ""]


def _a_dash_is_a_dash(app, doctree):
    """Sphinx sets two hyphens between an argument and what it is."""
    for text in list(doctree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" – "))


def setup(app):
    app.connect("doctree-read", _a_dash_is_a_dash)
    app.connect("autodoc-process-docstring", _indented_is_literal)
    app.connect("source-read", _from_the_source)

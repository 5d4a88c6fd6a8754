"""How sphinx builds the documentation: `make docs`. Nothing is run for it, and no page asks anything of a network."""

import inspect
import re
import sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from pygments.lexers.special import TextLexer
from sphinx.util.inspect import stringify_signature

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS)]

import gallery  # noqa: E402 - of this folder

project = "keras_tfm"
author = "The keras_tfm authors"
init = DOCS.parent / "keras_tfm" / "__init__.py"
version = release = re.search(r'^__version__ = "(.*)"$', init.read_text("utf-8"), flags=re.MULTILINE)[1]
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_gallery", "_templates", "runs"]
suppress_warnings = ["config.cache"]  # the gallery's settings hold a class

html_theme = "furo"
html_title = f"keras_tfm {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_math_renderer = "mathml"
copybutton_prompt_text = ">>> |... "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# `Name` in a docstring leads to its page where there is one, and is plain code elsewhere.
default_role = "py:obj"
autosummary_imported_members = True
autosummary_ignore_module_all = False  # the packages say in `__all__` what is public
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say types, with shapes and units
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # what Keras says of its methods stands in Keras' documentation
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [
    *("Caching", "Masking", "Metrics", "Reference"),
    *((name, "params_style") for name in ("Call arguments", "Signatures", "Signatures of the SavedModel")),
]
python_maximum_signature_line_length = 88

gallery.write_sources()
sphinx_gallery_conf = {
    "examples_dirs": ["_gallery/labs", "_gallery/programs"],
    "gallery_dirs": ["examples/labs", "examples/programs"],
    "within_subsection_order": "gallery.Order",
    "plot_gallery": "False",  # example_runs.py runs them, once for each version of their code
    "notebook_extensions": set(),
    "download_all_examples": False,
    "write_computation_times": False,
    "show_signature": False,
    "remove_config_comments": True,
    "default_thumb_file": str(DOCS / "_static" / "program.png"),
    "backreferences_dir": "examples/backreferences",
    "doc_module": ("keras_tfm",),
}


def link_pages(app, document_name, source):
    """Pages name each other as `docs/data.md` and examples as `examples/ner.py`: here these are links.

    Blocks without a language are what programs print, which sphinx would colour as Python.
    """
    if document_name.startswith(("api/", "examples/")):
        return
    up = "../" * document_name.count("/")

    def page(match):
        path = DOCS.parent / match[1]
        if path.parent == DOCS and path.exists():
            return f"[{path.stem.replace('_', ' ')}]({up}{path.name})"
        if path in gallery.labs() + gallery.programs():
            folder = "labs" if path.parent.name == "labs" else "programs"
            return f"[{path.name}]({up}examples/{folder}/{path.stem}.rst)"
        return match[0]

    def printed(match):
        return match[0] if match[1] else f"```text\n{match[2]}```"

    source[0] = re.sub(r"^```([^\n]*)\n(.*?)^```$", printed, source[0], flags=re.DOTALL | re.MULTILINE)
    source[0] = re.sub(r"(?<!\[)`((?:docs|examples)/[\w/]+\.(?:md|py))`", page, source[0])


def escape(app, what, name, value, options, lines):
    """Docstrings are plain text with code in backticks: what else reStructuredText would read as markup is escaped."""
    text = "\n".join(lines)
    parts = re.split(r"(`[^`]+`|^ *(?:>>>|\.\.\. ).*(?:\n *\S.*)*)", text, flags=re.MULTILINE)
    parts[::2] = [re.sub(r"[*|]|(?<=\w)_(?=\W|$)", r"\\\g<0>", part) for part in parts[::2]]
    parts[2::2] = [re.sub(r"^(?=[\w^])", r"\\ ", part) for part in parts[2::2]]  # as in "`KVCache`s"
    lines[:] = "".join(parts).split("\n")


def sign(app, what, name, value, options, signature, return_annotation):
    """Keras' layers are made by a `__new__` that takes anything: what counts is `__init__`."""
    if what == "class" and signature == "(*args, **kwargs)":
        found = inspect.signature(value.__init__)
        found = found.replace(parameters=list(found.parameters.values())[1:])
        return stringify_signature(found, show_annotation=False, show_return_annotation=False), return_annotation
    return None


def visit_math(translator, node):
    """Formulas as MathML, which browsers draw by themselves."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    translator.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def setup(app):
    app.connect("source-read", link_pages)
    app.connect("autodoc-process-signature", sign)
    app.connect("autodoc-process-docstring", escape, priority=400)  # before napoleon
    app.add_lexer("mermaid", TextLexer)  # its pictures are drawn by a program from a network: here they are read
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))

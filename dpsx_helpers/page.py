"""The notebooks as they ran, one after the other, on one HTML page that needs nothing from the network."""

import re
from collections.abc import Sequence
from typing import Any

from nbconvert.exporters import HTMLExporter
from nbformat.v4 import new_markdown_cell, new_notebook

from dpsx_helpers import tutorial

TITLE = "Provisioning a simulated X.509 device: the notebooks as they ran"
# nbconvert's page in JupyterLab's look, without the scripts that it would fetch from a CDN.
_TEMPLATE = (
    "{% extends 'lab/index.html.j2' %}"
    "{% block html_head_js %}{% endblock %}"
    "{% block html_head_js_mathjax %}{% endblock %}"
    "{% block html_head_js_mermaidjs %}{% endblock %}"
)
_PYTHON = {"name": "python", "pygments_lexer": "ipython3"}
_WIDGET = "application/vnd.jupyter.widget-view+json"


def page(notebooks: Sequence[tuple[str, Any]]) -> str:
    """HTML of these (name without ending, executed notebook). The notebooks themselves are not changed."""
    names = [name for name, _ in notebooks]
    cells = [_text(f"**{TITLE}**\n\n" + "\n".join(f"- [{name}](#{name})" for name in names))]
    for name, notebook in notebooks:
        cells.append(_text(f'<a id="{name}"></a>'))
        cells += [_without_widgets(cell) for cell in notebook.cells]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # ids are unique within a notebook only
    metadata = {"title": TITLE, "language_info": _PYTHON}
    whole = new_notebook(cells=cells, metadata=metadata)  # type: ignore[no-untyped-call]
    html, _ = HTMLExporter(raw_template=_TEMPLATE).from_notebook_node(whole)  # type: ignore[no-untyped-call]
    return _linked(html, names)


def _text(source: str) -> Any:
    return new_markdown_cell(source)  # type: ignore[no-untyped-call]


def _without_widgets(cell: Any) -> Any:
    """A copy of the cell where a form is shown by its plain text: its widget lives only as long as its kernel."""
    copy = cell.copy()
    if cell.cell_type == "code":
        copy["outputs"] = [_without_widget(output) for output in cell.outputs]
    return copy


def _without_widget(output: Any) -> Any:
    if _WIDGET not in output.get("data", {}):
        return output
    data = {kind: value for kind, value in output["data"].items() if kind != _WIDGET}
    return type(output)({**output, "data": data})


def _linked(html: str, names: Sequence[str]) -> str:
    """Links from notebook to notebook stay within the page; to one that is not on it, there is none."""
    others = [name for name, _ in tutorial.STEPS if name not in names]
    if others:
        html = re.sub(rf'<a href="(?:\./)?(?:{_any(others)})\.ipynb[^>]*>(.*?)</a>', r"\1", html)
    return re.sub(rf'href="(?:\./)?({_any(names)})\.ipynb(?:#[^"]*)?"', r'href="#\1"', html)


def _any(names: Sequence[str]) -> str:
    return "|".join(map(re.escape, names))

"""Makes the API pages from docstrings and signatures of source files, without importing them."""

import ast
import re
from pathlib import Path


def api(root: Path, module: str) -> str:
    """The API of a module as Markdown: public classes with their methods, and public functions."""
    path = root.joinpath(*module.split("."))
    package = path / "__init__.py"
    tree = ast.parse((package if package.exists() else path.with_suffix(".py")).read_text())
    parts = [f"### `{module}`", ast.get_docstring(tree) or ""]
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            parts += described_class(node)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            parts += [f"#### `{node.name}`", signature(node), ast.get_docstring(node) or ""]
    return "\n\n".join(part for part in parts if part)


def described_class(node: ast.ClassDef) -> list[str]:
    bases = ", ".join(map(ast.unparse, node.bases))
    fields = [one for one in node.body if isinstance(one, ast.AnnAssign) and not ast.unparse(one.target).startswith("_")]
    lines = [f"class {node.name}({bases}):" if bases else f"class {node.name}:", *(f"    {ast.unparse(one)}" for one in fields)]
    parts = [f"#### `{node.name}`", code("\n".join(lines)), ast.get_docstring(node) or ""]
    for one in node.body:
        if isinstance(one, ast.FunctionDef) and (not one.name.startswith("_") or one.name == "__init__"):
            parts += [signature(one), ast.get_docstring(one) or ""]
    return parts


def signature(node: ast.FunctionDef) -> str:
    marks = [f"@{ast.unparse(mark)}" for mark in node.decorator_list]
    given = ast.unparse(node.args)
    back = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"def {node.name}({given}){back}"
    if len(line) > 88:
        parts = re.split(r", (?![^\[(]*[\])])", given)
        line = f"def {node.name}(\n    " + ",\n    ".join(parts) + f",\n){back}"
    return code("\n".join([*marks, line]))


def code(text: str) -> str:
    return f"```python\n{text}\n```"

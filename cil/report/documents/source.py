"""Reads docstrings and signatures from source files without importing them, and makes the API pages."""

import ast
import re
from pathlib import Path


def parsed(root: Path, module: str) -> ast.Module:
    return ast.parse(file_of(root, module).read_text())


def file_of(root: Path, module: str) -> Path:
    path = root.joinpath(*module.split("."))
    package = path / "__init__.py"
    return package if package.exists() else path.with_suffix(".py")


def class_of(root: Path, module: str, name: str) -> ast.ClassDef:
    return next(node for node in parsed(root, module).body if isinstance(node, ast.ClassDef) and node.name == name)


def docstrings(root: Path, module: str, name: str) -> tuple[str, str]:
    """The docstrings of a module and of one of its classes."""
    return ast.get_docstring(parsed(root, module)) or "", ast.get_docstring(class_of(root, module, name)) or ""


def constructor(node: ast.ClassDef) -> str:
    """The docstring of a class's constructor."""
    made = next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)
    return "" if made is None else ast.get_docstring(made) or ""


def api(root: Path, module: str) -> str:
    """The API of a module as Markdown: public classes with their methods, and public functions."""
    tree = parsed(root, module)
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

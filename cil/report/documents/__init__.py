"""Fills the generated blocks of README.md and docs/ from finished runs, code and YAML; `scripts/fill_docs.py` calls it."""

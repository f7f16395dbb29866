"""Generates the blocks of README.md and docs/ that come from runs, code and YAML. Called by `scripts/fill_docs.py`."""

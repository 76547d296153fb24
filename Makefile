# Shortcuts for people who work on vanbench; the README's two commands need none of them.
VENV := .venv/bin

.PHONY: check test lint types columns notebooks site clean

check: lint types test

test:
	$(VENV)/pytest

lint:
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .

types:
	$(VENV)/mypy

# docs/columns.md is made from the lists of columns in report/; a test keeps them the same.
columns:
	$(VENV)/python -c "from vanbench.report.columns_page import document; print(document(), end='')" > docs/columns.md

# docs/notebooks/ are the executed notebooks; those in notebooks/ keep no outputs, which a test looks to.
notebooks:
	rm -rf docs/notebooks
	$(VENV)/jupyter nbconvert --to markdown --execute --output-dir docs/notebooks notebooks/*.ipynb
	sed -i 's#](../docs/#](../#g; s#\.ipynb)#.md)#g' docs/notebooks/*.md

site:
	$(VENV)/mkdocs build --strict

clean:
	rm -rf .venv build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache

# Shortcuts for people who work on vanbench; the README's two commands need none of them.
VENV := .venv/bin

.PHONY: check test lint types columns clean

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

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

"""What to run: frozen values that name axes, cells and how long to sample. Knows no torch and no files."""

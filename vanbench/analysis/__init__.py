"""What it means: pure arithmetic over what was seen. No files, no torch, no printing."""

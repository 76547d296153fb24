"""How cells get run: the parent half. It starts workers, gives turns, and keeps what they say; never imports torch."""

"""Public implementations: one file each, imported only when its comparisons run."""

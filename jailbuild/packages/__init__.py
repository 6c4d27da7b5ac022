"""Whose file is this, and which files has a package: the lists of package managers, read from any root."""

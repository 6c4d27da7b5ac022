"""jailbuild makes a directory that can serve as "/" for a few programs, proves it, and enters it."""

__version__ = "0.1.0"

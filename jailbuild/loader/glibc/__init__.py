"""The loader of glibc, as ld.so(8) and its sources have it."""

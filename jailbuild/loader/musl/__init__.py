"""The loader of musl, as ldso/dynlink.c has it."""

"""What one ELF file says. The only room that imports elftools."""

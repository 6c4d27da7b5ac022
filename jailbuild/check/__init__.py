"""The rules that a box, or any root, must meet: one small module for each kind."""

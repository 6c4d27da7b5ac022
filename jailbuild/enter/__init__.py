"""Becoming a process in the box."""

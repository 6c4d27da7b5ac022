"""From requests to every file they need."""

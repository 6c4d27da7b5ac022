"""The box on disk: what it holds, what would change, and the only writer of it."""

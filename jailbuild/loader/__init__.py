"""Where the dynamic loader would look."""

"""Where documents come from: the embedded scenes, Python's documentation, a user's own files."""

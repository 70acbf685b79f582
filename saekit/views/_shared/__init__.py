"""views._shared: to be described."""

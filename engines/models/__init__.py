"""Models: where they come from, and the one place where they are called, counted and timed."""

"""Guess several tokens cheaply, let the target check them all in one pass, keep what it would have said."""

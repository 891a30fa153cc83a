"""Comparisons with other implementations, each in an environment of its own."""

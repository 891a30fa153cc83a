"""Laboratories: methods that measure and compare rather than write."""

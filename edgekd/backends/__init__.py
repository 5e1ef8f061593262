"""Runtimes: one file each, found by name."""

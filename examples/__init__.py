"""Demonstrations: nothing in `migrate` or `transport` depends on them."""

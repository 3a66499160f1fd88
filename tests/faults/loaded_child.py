"""Imported by the process that children are forked from: it has loaded everything, and done nothing."""

from child import load_everything

load_everything()

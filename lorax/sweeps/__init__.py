"""Sweeps: methods compared over scenarios, seeds and orders; which cells there are, and what they came to."""

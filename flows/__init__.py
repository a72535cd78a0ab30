"""Prefect's flows: what runs when, what is tried again, and what the server is told."""

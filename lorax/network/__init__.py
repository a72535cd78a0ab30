"""Backbone, branches, heads, and what they have said of images already."""

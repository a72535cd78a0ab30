"""Layouts of data sets: what a source was taken for, and the tasks that it holds, before any of it is landed."""

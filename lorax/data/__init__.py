"""Data sets: their layouts, landing, images, and their versions in git and DVC."""

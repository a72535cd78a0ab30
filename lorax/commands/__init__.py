"""The `lorax` command: of each part its options, what it does, and how it prints."""

"""Images in, verdicts out: why they say what they say, and the share of unknown images, watched."""

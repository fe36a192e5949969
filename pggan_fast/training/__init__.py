"""Training: losses and whole steps."""

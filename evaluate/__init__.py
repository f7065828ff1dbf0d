"""Targets: run a file where it will run, and measure. Never changes a model."""

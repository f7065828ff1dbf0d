"""Palette-native C firmware: one readable file of tables and calls, over hand-kept kernels."""

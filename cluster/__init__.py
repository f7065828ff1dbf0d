"""Numbers and training: palettes, plans and clustering-aware training. Knows Keras, knows no file format."""

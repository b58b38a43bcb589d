"""One export of a model: another format, held against the model before it counts."""

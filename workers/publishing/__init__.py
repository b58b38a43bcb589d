"""One publication of a model: encrypted, sent, verified, and only then shown to consumers."""

"""The process preference model: pairs from trees, losses, training, scoring."""

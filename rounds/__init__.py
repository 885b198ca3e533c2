"""One round of self-evolution: search, training sets, training, evaluation, report."""

"""`rstar eval`: strategies side by side on problem sets, at equal token budgets."""

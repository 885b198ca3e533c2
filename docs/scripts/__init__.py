"""What makes the documentation site: its hooks, its references from the code, its pictures."""

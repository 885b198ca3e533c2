"""From raw pools of problems to a file that a recipe can name: duplicates, contamination, levels, doubtful answers."""

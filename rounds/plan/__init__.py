"""What a recipe costs, before it runs: tokens, executions, hours, days, disk, money, and whether its models fit."""

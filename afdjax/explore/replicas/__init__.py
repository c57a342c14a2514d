"""One replica: its numbers, what a step of it takes, and what users see of it."""

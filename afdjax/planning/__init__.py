"""The best ratio, and the plan around it."""

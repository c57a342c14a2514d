"""What binds a plan, what it is sensitive to, and how it is handed to the planner."""

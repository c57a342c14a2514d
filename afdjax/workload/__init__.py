"""What a slot holds: laws of request lengths, logs, and the stationary token load that follows from them."""

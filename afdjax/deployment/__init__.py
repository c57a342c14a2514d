"""How long stages take, and what is provisioned."""

"""Documents in, pictures out."""

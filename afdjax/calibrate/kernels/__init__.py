"""Forms fitted to measured times of single stages."""

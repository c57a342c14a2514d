"""Tools that know nothing of AFD: checks, types, files, numerics, compiled programs."""

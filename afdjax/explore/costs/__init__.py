"""Times of stages on given devices, and the setting that they are judged in."""

"""What a user can ask for: `base` for every system, one file a broker for how to reach it."""

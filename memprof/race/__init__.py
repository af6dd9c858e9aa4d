"""How fast methods train beside each other: rounds in which each runs in turn, and what the rounds say of each."""

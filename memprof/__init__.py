"""memprof: what a way of training a model costs in memory and speed, and why."""

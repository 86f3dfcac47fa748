"""Meta-learning: tasks, loops that learn one of them, and what learns over many of them how to."""

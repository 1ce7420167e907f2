"""Training: steps, state, checkpoints, and what runs are compared by."""

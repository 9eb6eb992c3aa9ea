"""The loop around a method: data, optimiser, teacher, checkpoints."""

"""What every training shares: the run folder, the engine, progress."""

"""Reading scans with their geometry, and refusing those that must not enter a run."""

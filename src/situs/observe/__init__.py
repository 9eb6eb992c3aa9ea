"""Drawing observations: figures and report."""

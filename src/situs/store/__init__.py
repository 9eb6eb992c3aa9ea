"""Preprocessing and the chunked store."""

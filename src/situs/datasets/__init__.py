"""Labelled collections, in the layouts that people keep them in."""

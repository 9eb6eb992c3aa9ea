"""Pure functions on coordinates: gaps, planes, correspondence."""

"""Hand the encoder on to other frameworks."""

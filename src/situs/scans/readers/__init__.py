"""One module a file format; each has ``read(path, options) -> Scan``."""

"""One module a layout; each has ``fits(path)`` and ``open_layout(path, options)``."""

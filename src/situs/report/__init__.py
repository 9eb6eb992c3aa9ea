"""Drawing observations, runs and studies: figures, pages, viewer, server."""

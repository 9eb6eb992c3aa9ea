"""Who is trained on, held out and tested: by patient, never both."""

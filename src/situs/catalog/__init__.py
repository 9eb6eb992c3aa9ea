"""What a collection holds: its scans, what is refused and why, duplicates, studies, roles."""

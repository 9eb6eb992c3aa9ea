"""Carrying an encoder over to tasks with few labels."""

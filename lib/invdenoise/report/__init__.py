"""Printed numbers beside ours: comparison, claims, tables, figures, and the page."""

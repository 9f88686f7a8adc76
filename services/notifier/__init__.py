"""Notifies: tells people and programs how runs ended, and which slots were missed."""

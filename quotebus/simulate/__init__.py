"""Vendors played on this machine: their paths, answers, errors and quotas over HTTP, with the prices of the made-up market."""

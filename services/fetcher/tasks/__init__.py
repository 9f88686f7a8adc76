"""Tasks: pulled by priority, ended with one outcome, kept while they are coalesced, rescued when nobody pulls them."""

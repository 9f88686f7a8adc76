"""Planning: a refresh request becomes one task a symbol, or a reason why not."""

"""Quota: the ledger of permits, the pacer, and the limits that answers teach."""

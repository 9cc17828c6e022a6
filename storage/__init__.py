"""What survives a restart: tables, the ledger, the object store. Imports nothing of ours."""

"""The ledger's figures at a million jobs: ``python -m benchmarks.ledger``."""

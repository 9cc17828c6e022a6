"""How good the starter model is, by a judge: ``python -m benchmarks.starter``."""

"""Which models jobs may name: where they come from, what is refused, what a licence allows."""

"""Campaigns by the clock: when they fire, how a run starts, and what may be asked about them."""

"""The processes that run jobs on a device."""

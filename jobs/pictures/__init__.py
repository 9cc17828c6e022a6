"""Uploaded pictures, which nobody trusts: checked, decoded apart, written anew, and stored."""

"""What may be asked for, and the doors to ask. No torch in here."""

"""What a campaign is made of: its file, its recipients and its creatives, read and checked."""

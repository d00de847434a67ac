"""The command line of scoresde."""

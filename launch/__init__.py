"""What a user starts: the command line, the ranks on this machine, the demo."""

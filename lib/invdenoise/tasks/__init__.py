"""What is done with a method and how it is scored, one kind of work a file."""

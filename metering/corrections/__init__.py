"""What is decided of usage after it was counted: corrections, and what came after a month was billed."""

"""What sets a machine up, checks the code and runs the stack."""

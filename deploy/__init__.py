"""What is laid down on a device at release."""

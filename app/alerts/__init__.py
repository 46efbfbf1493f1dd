"""What is wrong now (rules), since when (evaluation), and who is notified."""

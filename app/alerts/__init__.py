"""What is wrong now: the rules, their evaluation, and the notifications."""

"""`flask doctor`: what is wrong with this installation, and what to do; one function for each check."""

"""The command line, `flask ...` or `certcourier ...`: one module for each noun."""

"""The command line, `certcourier ...` (`flask ...` works as well): one module for each noun."""

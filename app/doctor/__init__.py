"""`certcourier doctor`: checks of the installation, one function each, that find what is wrong and what to do."""

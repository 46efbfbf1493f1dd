"""Programs for those who work on Certcourier; none is needed to run it."""

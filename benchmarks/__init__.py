"""What Certcourier costs and how long it takes, measured. `python -m benchmarks`."""

"""What Certcourier costs and how long it takes, measured with real processes against the simulator.

Timings on shared machines are noisy, so figures that are compared are taken in one run, several times, and given as
median and spread. Nothing here is a test: tests assert behaviour.
"""

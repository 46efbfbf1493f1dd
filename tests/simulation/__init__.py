"""Simulates a year of renewals in minutes: the clocks of simulator and application are advanced together."""

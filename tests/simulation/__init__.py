"""A year of renewals in some minutes: the clocks of simulator and application are moved ahead together."""

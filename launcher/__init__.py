"""`make run`: the whole service on one machine, with a simulated DNSimple where no token is configured.

`__main__` starts everything; `folder` locks the data directory, `processes` starts and stops the children, `demo` holds
the settings and the first order for a simulated DNSimple, `messages` the terminal output.
"""

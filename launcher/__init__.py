"""`make run`: the whole service on one machine, with a simulated DNSimple where no token is configured.

`__main__` is the course of it; `folder` keeps a second one away from the same data, `processes` starts and ends the
children, `demo` is what is said and done where DNSimple is simulated.
"""

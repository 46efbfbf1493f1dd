"""The use cases, in the order a certificate lives through them.

`placing` -> `ordering` -> `watching` and `receiving` -> `installing` -> `delivering`. Each is a function of the
services and either a request's values or a claimed job; each commits step by step, so that it can be taken up after any
interruption.
"""

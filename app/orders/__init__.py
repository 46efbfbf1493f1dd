"""Orders: placed once, advanced step by step until DNSimple issues the certificate, and polled until it is issued."""

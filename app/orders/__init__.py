"""Orders: placed once, advanced step by step until DNSimple is issuing, then polled until the certificate is issued."""

"""Deliveries of certificates to destinations, and whether endpoints serve them."""

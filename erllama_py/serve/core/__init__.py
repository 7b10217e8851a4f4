"""What all APIs have in common: one request's way from the socket to a model and back. No API is named here."""

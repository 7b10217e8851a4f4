"""Streams that are taken up again by the id that their client has given them, without the request that began them."""

"""The shared cache: which prefixes are kept, under which keys. So far it holds the keys' parts: `keys`."""

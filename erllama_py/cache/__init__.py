"""The shared cache: which prefixes are kept, under which keys, in which tiers."""

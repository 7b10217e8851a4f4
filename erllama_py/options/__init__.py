"""Every option, of models, requests, runtimes, tiers and the pressure monitor: frozen structs, checked at the door."""

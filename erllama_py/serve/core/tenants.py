"""What tenants are called where something is kept for them."""

from __future__ import annotations

import hashlib

from erllama_py.serve.core.service import Tenant


def tenant_key(tenant: Tenant) -> str:
    """A tenant as a name that is safe as a file's, and tells nothing. It stays the same where keys change."""
    told = f"name {tenant.name}" if tenant.name else f"salt {tenant.salt or ''}"
    return hashlib.sha256(told.encode()).hexdigest()[:32]

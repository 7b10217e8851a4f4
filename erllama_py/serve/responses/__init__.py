"""Open Responses: answers that are made of items, kept, and continued. Source: its OpenAPI document, 2026-04-24."""

"""All that knows federation exists: modules, updates, and their form on the wire."""

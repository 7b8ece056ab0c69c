"""How long a test waits for what will come: so long that only a fault, and no busy machine, makes it wait in vain."""

PATIENCE_SECONDS = 600.0

"""Every test runs with array shapes checked: a wrong shape in a signature raises."""

from jaxtyping import install_import_hook

install_import_hook(["permmoe", "permmoe_server", "permmoe_client", "permmoe_simulation"], "beartype.beartype")

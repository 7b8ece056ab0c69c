"""Every test runs with array shapes checked: a wrong shape in a signature raises. No test is judged by its time."""

from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook(["permmoe", "permmoe_server", "permmoe_client", "permmoe_simulation"], "beartype.beartype")
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

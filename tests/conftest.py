"""How random tests draw: the same in CI every time, so that a red run is the change's fault; anew on a desk."""

import gc
import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("desk", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "desk")

# Thousands of small tests make a lot of short-lived objects: looking for cycles among them takes an eighth of the time.
gc.set_threshold(100_000, 50, 50)

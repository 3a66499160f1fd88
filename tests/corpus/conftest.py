"""Settings shared by the tests of the corpus room."""

from hypothesis import settings

# The first call of a fast path builds its tables; a deadline per example would measure the machine's load.
settings.register_profile("corpus", deadline=None)
settings.load_profile("corpus")

"""The parts of tests/soak, and how they are counted."""

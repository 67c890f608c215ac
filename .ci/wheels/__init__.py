"""What build_wheels.py is made of: interpreters, the toolchain, building, testing."""

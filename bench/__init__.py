"""Benchmarks of pyuffd: what is asked, how it is measured, and what is told. See ``python -m bench --help``."""

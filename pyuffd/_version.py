"""The version of pyuffd."""

__version__ = "0.1.0"

"""``pyuffd serve criu``: the manager of a lazy restore, in the place of ``criu lazy-pages``."""

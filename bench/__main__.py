"""``python -m bench``: the same as ``pyuffd bench``."""

import sys

from .command_line import main

sys.exit(main())

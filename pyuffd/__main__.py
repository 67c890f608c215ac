"""``python -m pyuffd``: the console command."""

import sys

from pyuffd._command_line import main

sys.exit(main())

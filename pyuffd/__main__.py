"""Run the console command: ``python -m pyuffd``."""

import sys

from pyuffd._command_line import main

sys.exit(main())

"""`python -m lofa.cli <command> ...`, the same as `lofa <command> ...`."""

import sys

from lofa.cli import main

sys.exit(main())

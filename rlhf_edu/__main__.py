"""`python -m rlhf_edu` is the same as `rlhf-edu`."""

import sys

from rlhf_edu.cli import main

sys.exit(main())

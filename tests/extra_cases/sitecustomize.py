"""With this folder on PYTHONPATH the command, and the processes that it starts, know our case."""

from pathlib import Path

import rlhf_edu.cases

rlhf_edu.cases.__path__.append(str(Path(__file__).parent))
rlhf_edu.cases.CASES["tiny"] = "a case for the tests"

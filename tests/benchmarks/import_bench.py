"""What `import saekit` costs beside `import torch`: fresh processes, one after the other, so that load hits both."""

import os
import subprocess
import sys
from statistics import median

REPEATS = 7
# The plain import is lazy and costs next to nothing; what a notebook feels is the import of what it then uses.
SURFACE = "import saekit\nfor name in saekit.__all__: getattr(saekit, name)"


def imports() -> dict[str, float]:
    """Return the wall time of the imports over that of torch: median of the ratios of neighbouring processes."""
    statements = {"torch": "import torch", "alone": "import saekit", "surface": SURFACE}
    for statement in statements.values():  # once for the disk's sake
        seconds(statement)
    rounds = [{name: seconds(statement) for name, statement in statements.items()} for _ in range(REPEATS)]
    return {
        "import_over_torch": median(lap["surface"] / lap["torch"] for lap in rounds),
        "import_alone_over_torch": median(lap["alone"] / lap["torch"] for lap in rounds),
        "import_torch_seconds": median(lap["torch"] for lap in rounds),
    }


def seconds(statement: str) -> float:
    """Return how long a statement takes in a fresh interpreter, not counting the interpreter's own start."""
    code = f"import time\nstart = time.perf_counter()\n{statement}\nprint(time.perf_counter() - start)"
    # Bytecode is kept, as it is for a user, also where this process was told to write none.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


BENCHES = [imports]

"""`fvc train` with a network that is made in a moment, to be started by torchrun.

The file that WRITTEN names is given what ranks other than 0 wrote below the working directory.
"""

import os
import sys
from pathlib import Path

import torch
from ranks_worker import small_features, writes_below

from fvc import networks
from fvc.__main__ import main

if __name__ == "__main__":
    torch.set_num_threads(1)
    networks.build_features = small_features  # type: ignore[assignment]
    written = writes_below(Path.cwd())
    code = main()
    if os.environ.get("RANK", "0") != "0":
        Path(os.environ["WRITTEN"]).write_text("\n".join(written))
    sys.exit(code)

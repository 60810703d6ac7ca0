"""`python -m kabench.server`: see `kabench.server.process`; with `counts FILE`, it prints the counts in a file."""

import dataclasses
import json
import sys

from kabench.server.counts import CountsFileError, read_counts
from kabench.server.process import main

if len(sys.argv) == 1:
    main()
elif sys.argv[1] == "counts" and len(sys.argv) == 3:
    try:
        sys.stdout.write(json.dumps(dataclasses.asdict(read_counts(sys.argv[2])), indent=2) + "\n")
    except CountsFileError as error:
        sys.exit(f"kabench: {error}")
else:
    sys.exit("kabench: usage: python -m kabench.server counts FILE")

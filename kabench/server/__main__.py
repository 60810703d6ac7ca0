"""`python -m kabench.server`: see `kabench.server.process`."""

from kabench.server.process import main

main()

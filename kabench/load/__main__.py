"""`python -m kabench.load`: a worker; see `kabench.load.worker`."""

from kabench.load.worker import main

main()

"""`python -m kabench.load.workers`: a worker; see `kabench.load.workers.worker`."""

from kabench.load.workers.worker import main

main()

"""`python -m kabench.distributed`: the master; see `kabench.distributed.master`."""

from kabench.distributed.master import main

main()

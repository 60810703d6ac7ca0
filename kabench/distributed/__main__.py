"""`python -m kabench.distributed`: the hub; see `kabench.distributed.hub`."""

from kabench.distributed.hub import main

main()

"""Who sends when: users of the closed model, arrivals of the open one, through agents and clients."""

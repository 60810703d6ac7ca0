"""The processes of this machine that carry a load out, and how they are heard. Workers elsewhere: `distributed`."""

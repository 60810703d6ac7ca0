"""What a load counts, and what its workers ship: recorder, messages, tally."""

"""Counts first: what an evaluation pass records, and every ratio that follows from it at report time."""

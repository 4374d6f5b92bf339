"""The contract suite and the particulars of each broker."""

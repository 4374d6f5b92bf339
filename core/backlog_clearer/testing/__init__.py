"""What tests of an adapter need: the contract suite, its `Bench`, processes and ports."""

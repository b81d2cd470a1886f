"""Plan, emulate, prove and export parallel strategies."""

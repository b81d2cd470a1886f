"""Finding a strategy: the whole space in closed form at once, uneven stages by MILP, and why not its neighbours."""

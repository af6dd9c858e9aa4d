"""Plain twins: one file a method, the equations of its paper in fp64, as few lines as they take."""

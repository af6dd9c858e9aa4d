"""A paper's tables reproduced: each cell by formula, by trace and measured, with a verdict."""

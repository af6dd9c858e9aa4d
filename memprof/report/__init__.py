"""Records in; tables, text and charts out. Never measures, and imports no part of the engine."""

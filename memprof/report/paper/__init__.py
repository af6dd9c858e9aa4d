"""A paper's reproduction shown: tables for the terminal, a page, a chart, and data. Reads results and nothing else."""

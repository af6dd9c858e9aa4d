"""Memory budgets: limits in a TOML file, and a baseline in JSON, held against records.

`source` finds and reads the file, `config` checks what it says, `limits` knows sizes and percentages, `baseline` keeps
what was accepted, `check` gives verdicts, `explain` says why, `run` does it all, and the rest renders. From Python:
`check_records(read_budgets("memprof.toml"), records, baseline)`.
"""

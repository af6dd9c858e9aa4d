"""Is each method the method of its paper? Whole trajectories against oracles: plain twins, and public implementations.

`twins` holds one file a method: the paper's equations, written as plainly as they can be, run in fp64 beside ours.
`references` holds one file a public implementation, run in fp32 beside ours over several refreshes; each is skipped
where it is not installed. `python -m fidelity -o reports/fidelity` runs all and writes the table.
"""

"""The command line: one thin file a command, each gathers, calls and renders. Nothing imports it."""

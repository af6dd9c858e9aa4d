"""The methods, one file each: its paper, its maths, its formula, its optimizer. `memprof.catalogue` names them."""

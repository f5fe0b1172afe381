"""An own model in every experiment: `model=conv_net` on a command line, or the class itself in Python."""

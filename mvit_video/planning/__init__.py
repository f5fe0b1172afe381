"""Which resources a run needs: sizes, times and scaling, by formulas; nothing is read or run."""

"""Where a run takes place: this process, ranks on this machine or several, or a SLURM job that supervises its ranks."""

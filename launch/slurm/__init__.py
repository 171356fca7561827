"""Studies as job arrays of SLURM: what is submitted, what a task of an array does, and where everything stands."""

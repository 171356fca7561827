"""Many runs: expand a study, execute what is missing, watch it, and the command line."""

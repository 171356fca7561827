"""What may be asked: schemas, YAML loading, planning and the run-directory contract. Knows nothing of torch."""

"""Many finished runs -> run table -> laws -> figures -> report. Never imports train; knows nothing of torch."""

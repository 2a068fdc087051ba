"""How an artifact is judged: cases, reference, noise, comparison, diagnosis, report."""

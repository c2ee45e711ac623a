"""The suite as jobs: what is wanted, what is stale, what runs, and what each job needs."""

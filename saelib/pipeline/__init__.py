"""Turns a suite into jobs: finds stale results, plans the jobs that compute them, and estimates their needs."""

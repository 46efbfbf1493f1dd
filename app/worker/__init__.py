"""The worker process: claims jobs, runs their handlers, enqueues periodic jobs."""

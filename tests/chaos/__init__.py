"""Programs that attack the promises: processes killed at every instant, answers lost, webhooks dropped and forged."""

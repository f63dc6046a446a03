"""The ports of the core, simulated in memory."""

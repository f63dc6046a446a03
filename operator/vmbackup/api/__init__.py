"""Every document that outlives a process: the resources, the set's manifest, the node journal."""

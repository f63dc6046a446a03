"""The API server: resources, leases, events. The only room that imports kubernetes."""

"""The parts of a real cluster on one machine: control plane, hypervisors and guests."""

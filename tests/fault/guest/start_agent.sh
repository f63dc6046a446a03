# Start the guest agent as /init does.
port=$(grep -lx org.qemu.guest_agent.0 /sys/class/virtio-ports/*/name)
port=${port%/name}
port=/dev/${port##*/}
start_agent() { qemu-ga -d -m virtio-serial -p "$port"; }

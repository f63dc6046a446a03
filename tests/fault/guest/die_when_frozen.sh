# Kill the agent when the guest has been frozen for a second, start it again 8 seconds later.
frozen() { [ -e /var/run/qga.state.isfrozen ]; }
until frozen && sleep 1 && frozen; do usleep 20000; done
killall -9 qemu-ga
sleep 8
start_agent

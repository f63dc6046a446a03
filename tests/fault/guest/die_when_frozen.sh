# Kill the agent as soon as the file system is frozen, start it again 8 seconds later.
(while :; do echo > /data/probe; echo > /tmp/beat; usleep 50000; done) &
beating=$!
sleep 1
while [ -e /tmp/beat ]; do rm /tmp/beat; usleep 400000; done
killall -9 qemu-ga
sleep 8
start_agent
sleep 30
kill $beating

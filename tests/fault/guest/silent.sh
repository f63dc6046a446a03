# The agent does not answer for a while.
sleep 1
killall -STOP qemu-ga
sleep 20
killall -CONT qemu-ga

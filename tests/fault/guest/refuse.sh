# In the agent's place something that greets as it does, and answers every command with an error.
sleep 1
killall -9 qemu-ga
sleep 1
greet() {
    number=${1##*\"id\":}
    number=${number%%[!0-9]*}
    echo "{\"return\": $number}" >&3
}
(
    exec 3<> "$port"
    while :; do
        read -r line <&3 || usleep 100000
        case $line in
        *guest-sync*) greet "$line" ;;
        *guest-*) echo '{"error": {"class": "GenericError", "desc": "the disk is on fire"}}' >&3 ;;
        esac
    done
) &
false_agent=$!
sleep 20
kill -9 $false_agent
sleep 1
start_agent

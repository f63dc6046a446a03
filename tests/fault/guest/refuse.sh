# In the agent's place something that greets as it does, and answers every command with an error.
sleep 1
killall -9 qemu-ga
sleep 1
(
    exec 3<> "$port"
    while read -r line <&3; do
        case $line in
        *guest-sync*)
            id=${line##*:}
            echo "{\"return\": ${id%%\}*}}" >&3
            ;;
        *guest-*) echo '{"error": {"class": "GenericError", "desc": "the disk is on fire"}}' >&3 ;;
        esac
    done
) &
false_agent=$!
sleep 20
kill -9 $false_agent
sleep 1
start_agent

#!/bin/sh
# The smallest workload: a number in a shell's memory, printed every 10 ms or so ($PAUSE seconds).
#
# stdout: "N T" per line, N = 1, 2, 3... without a skip or a repetition, T = seconds of /proc/uptime
# (hundredths). A container that was restarted instead of moved begins with 1 again.
# For busybox sh or dash (a `sleep` that takes fractions). Ends on SIGTERM with "stopped at N".
n=0
trap 'echo "stopped at $n"; exit 0' TERM INT
while :; do
    n=$((n + 1))
    read -r now _ </proc/uptime
    echo "$n $now"
    sleep "${PAUSE:-0.01}"
done

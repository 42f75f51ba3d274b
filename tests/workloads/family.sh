#!/bin/sh
# A family of processes: a pipeline of three, children in the background, an orphan group, zombies.
#
# stdout: "line N" per line, N = 1, 2, 3... as they come out of the pipeline
#     producer (numbers) | filter (adds a word) | consumer (checks that N follows the one before)
# and "BROKEN ..." when a number is skipped or repeated, or when a member of the family has died.
# The numbers are in memory only, so a lost or repeated pipe buffer or a restarted process shows.
# For busybox sh or dash. Ends on SIGTERM, with its children. A number comes every $PAUSE seconds.

producer() {
    n=0
    while :; do
        n=$((n + 1))
        echo "$n"
        sleep "${PAUSE:-0.01}"
    done
}

filter() {
    while read -r n; do
        echo "line $n"
    done
}

consumer() {
    last=0
    while read -r word n; do
        if [ "$word" != line ] || [ "$n" != $((last + 1)) ]; then
            echo "BROKEN line: '$word $n' after $last"
        fi
        last=$n
        echo "$word $n"
    done
    echo "BROKEN pipe: it ended after $last"
}

# A child with a zombie most of the time: `sleep` does not wait for the child it got from the shell
# it replaced, so the dead child stays until `sleep` ends. And an exit status must come through.
undertaker() {
    while :; do
        sh -c 'sh -c "exit 0" & exec sleep 0.3'
        sh -c 'sleep 0.05; exit 7'
        [ $? = 7 ] || echo "BROKEN exit status of a child"
    done
}

trap 'trap "" TERM; kill 0; exit 0' TERM INT

producer | filter | consumer &
pipeline=$!
undertaker &
undertaker=$!
# A session of its own, as daemons have it, where there is setsid(1).
if command -v setsid >/dev/null; then
    setsid sh -c 'while kill -0 "$1" 2>/dev/null; do sleep 0.1; done' family-daemon $$ &
fi

while :; do
    kill -0 $pipeline 2>/dev/null || echo "BROKEN family: the pipeline is gone"
    kill -0 $undertaker 2>/dev/null || echo "BROKEN family: the undertaker is gone"
    sleep 0.1
done

# shellcheck shell=sh
# Runs one server for a test process, and outlives that process just long enough to clean up after it: nothing in a
# process that is killed with SIGKILL runs any more, but the kernel closes its end of the pipe that is our input.
#
#   $1  directory that belongs to the server alone; removed at the end
#   $2  signal that ends the server at once
#
# A request is a verb and its arguments, one a line, closed by an empty line. Each is answered with one line. No request
# waits for the server to end, because the end of input must always be noticed.
#   run PROGRAM ARGUMENT...     runs a program to its end, says its exit status
#   start PROGRAM ARGUMENT...   starts the server, says its process id
#   signal NAME PID...          says 0 when every process could be signalled
# When the server ends, its exit status is in the file `exited`. All output goes to the file `log`.

directory=$1
last_signal=$2
paused=

# Answering a process that is gone must not end this one: it still has to clean up.
trap '' PIPE
exec 2>>"$directory/log"

while :; do
    set --
    while IFS= read -r line && [ -n "$line" ]; do
        set -- "$@" "$line"
    done
    [ "$#" -gt 0 ] || break
    verb=$1
    shift
    case $verb in
    run)
        "$@" </dev/null >>"$directory/log" 2>&1
        echo "$?"
        ;;
    start)
        rm -f "$directory/pid" "$directory/exited"
        (
            # shellcheck disable=SC2016 # the inner shell expands these
            sh -c 'echo "$$" >"$0"; exec "$@"' "$directory/pid" "$@" </dev/null >>"$directory/log" 2>&1
            status=$?
            # libfaketime (clock.rs) leaves these behind if the server does not end by itself.
            pid=$(cat "$directory/pid")
            rm -f "/dev/shm/faketime_shm_$pid" "/dev/shm/sem.faketime_sem_$pid"
            echo "$status" >"$directory/exited"
        ) >/dev/null &
        until [ -s "$directory/pid" ]; do sleep 0.01; done
        cat "$directory/pid"
        ;;
    signal)
        signal=$1
        shift
        case $signal in
        STOP) paused="$paused $*" ;;
        CONT) paused= ;;
        esac
        kill -s "$signal" "$@"
        echo "$?"
        ;;
    *)
        echo "unknown verb $verb"
        ;;
    esac
done

if [ -s "$directory/pid" ] && [ ! -e "$directory/exited" ]; then
    server=$(cat "$directory/pid")
    # A stopped process takes no other signal before it goes on.
    # shellcheck disable=SC2086 # a list of numbers
    kill -s CONT "$server" $paused
    kill -s "$last_signal" "$server"
    wait
fi

# A browser outlives the driver that started it. What is still alive of this process group, which is ours alone, ends here.
left=yes
while [ -n "$left" ]; do
    left=
    ps -A -o pgid= -o pid= -o stat= >"$directory/processes"
    while read -r group pid state; do
        case $group/$pid/$state in
        "$$/$$/"* | */Z*) ;;
        "$$"/*) kill -s KILL "$pid" && left=yes ;;
        esac
    done <"$directory/processes"
done

# PostgreSQL killed with SIGKILL leaves a segment of shared memory that its next start would have taken over.
segment=$(sed -n '7s/.* //p' "$directory/data/postmaster.pid" 2>/dev/null)
if [ -n "$segment" ]; then
    ipcrm -m "$segment"
fi
rm -rf "$directory"

#!/usr/bin/env bash
# Stop what tests/slurm/up.sh FOLDER started, running jobs included.
set -euo pipefail
root=$(realpath -m "${1:?usage: down.sh FOLDER}")
conf=/etc/slurm/slurm.conf
[ "$(readlink $conf)" = "$root/slurm.conf" ] && timeout 10 scancel --full --user="$(id -un)" || true
for daemon in slurmd slurmctld munged; do
    pid=$(cat "$root/$daemon.pid" 2> /dev/null) || continue
    kill "$pid" 2> /dev/null || continue
    for _ in $(seq 50); do
        kill -0 "$pid" 2> /dev/null || break
        sleep 0.1
    done
done
for name in slurm gres; do
    [ "$(readlink "/etc/slurm/$name.conf")" = "$root/$name.conf" ] && rm "/etc/slurm/$name.conf"
done
true

#!/usr/bin/env bash
# Ends what up.sh FOLDER has started, jobs included.
set -uo pipefail
folder=$(realpath "$1")
export SLURM_CONF="$folder/slurm.conf"
scancel --user="$(id -un)" 2>/dev/null
for _ in $(seq 100); do
    [ -n "$(squeue --noheader 2>/dev/null)" ] || break
    sleep 0.1
done
for name in n0 n1 slurmctld munged; do
    if [ -f "$folder/$name.pid" ]; then kill "$(cat "$folder/$name.pid")" 2>/dev/null; fi
done
exit 0

#!/usr/bin/env bash
# Ends the Slurm that start.sh started, with all of its jobs, and removes its files.
set -u

base=/tmp/saelib-slurm
[ "$(readlink /etc/slurm/slurm.conf)" = "$base/slurm.conf" ] || { echo "stop.sh: there is no Slurm to stop"; exit 0; }

scancel --user=root 2>/dev/null
for name in slurmd.n1 slurmd.n2 slurmctld munged; do
  [ -s "$base/run/$name.pid" ] || continue
  pid=$(cat "$base/run/$name.pid")
  kill "$pid" 2>/dev/null
  for _ in $(seq 100); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
done
rm -rf "$base" /etc/slurm/slurm.conf /etc/slurm/gres.conf

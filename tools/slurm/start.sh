#!/usr/bin/env bash
# Starts a Slurm cluster on this one machine, to test `snakemake --cores all --profile slurm`: two nodes with two CPUs
# and two simulated GPUs each, a controller, no accounting database. For root on Debian or Ubuntu; stop.sh ends it.
# Exit status 3: this machine cannot run it. Any other nonzero status: it did not start.
# Memory limits are enforced by polling, not by cgroups, and nothing limits a job to its CPUs.
set -euo pipefail

base=/tmp/saelib-slurm
host=$(hostname -s)

refuse() { echo "start.sh: $*" >&2; exit 3; }

[ "$(id -u)" = 0 ] || refuse "Slurm's daemons run jobs as other users: run this as root, or use a cluster that you have"
if [ -e /etc/slurm/slurm.conf ] && [ "$(readlink /etc/slurm/slurm.conf)" != "$base/slurm.conf" ]; then
  refuse "/etc/slurm/slurm.conf belongs to another Slurm, which this one would replace"
fi
missing=$(for program in slurmctld slurmd munged sbatch; do command -v "$program" >/dev/null || echo "$program"; done)
if [ -n "$missing" ]; then
  command -v apt-get >/dev/null || refuse "install Slurm and munge first; without apt-get this script cannot"
  echo "start.sh: installing Slurm and munge"
  apt-get update -qq || refuse "apt-get found no packages"
  DEBIAN_FRONTEND=noninteractive apt-get install -yqq --no-install-recommends \
    slurm-wlm slurm-wlm-basic-plugins slurm-client munge >/dev/null || refuse "apt-get could not install Slurm"
fi

mkdir -p "$base"/{state,log,run,gpu} /etc/slurm
chmod 755 "$base" "$base/run"
getent hosts "$host" >/dev/null || echo "127.0.0.1 $host" >>/etc/hosts
# Slurm assigns GPUs by their device files; copies of /dev/null are enough.
for gpu in n1-0 n1-1 n2-0 n2-1; do
  [ -e "$base/gpu/$gpu" ] || mknod "$base/gpu/$gpu" c 1 3 || refuse "root cannot create device files (a container?)"
done

cat >"$base/slurm.conf" <<CONF
ClusterName=saelib
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# cred_expire is also the time that a job of a lost node waits before it starts again, 120 s by default. It must not be
# much shorter: a job whose start on its node takes longer is refused there.
AuthInfo=socket=$base/run/munge.socket,cred_expire=20
CredType=cred/munge
StateSaveLocation=$base/state
SlurmdSpoolDir=$base/state/%n
SlurmctldPidFile=$base/run/slurmctld.pid
SlurmdPidFile=$base/run/slurmd.%n.pid
SlurmctldLogFile=$base/log/slurmctld.log
SlurmdLogFile=$base/log/slurmd.%n.log
# Tracks by process group. By parents (linuxproc), a process that briefly outlives its parent would outlive its job.
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
# Jobs share nodes. CPUs, memory and GPUs are the limited resources.
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
SchedulerParameters=sched_interval=5,bf_interval=5,sched_min_interval=0
# A node that was set down stays down until it is resumed, even if it answers.
ReturnToService=1
KillWait=2
# The default of most clusters: squeue forgets a finished job after this many seconds.
MinJobAge=300
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill,NoShared
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=2 RealMemory=8000 Gres=gpu:pretended:2 State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=2 RealMemory=8000 Gres=gpu:pretended:2 State=UNKNOWN
PartitionName=cpu Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
PartitionName=other Nodes=n[1-2] Default=NO MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=n[1-2] Default=NO MaxTime=INFINITE State=UP
CONF
cat >"$base/gres.conf" <<CONF
NodeName=n1 Name=gpu Type=pretended File=$base/gpu/n1-[0-1]
NodeName=n2 Name=gpu Type=pretended File=$base/gpu/n2-[0-1]
CONF
for file in slurm.conf gres.conf; do
  ln -sfn "$base/$file" "/etc/slurm/$file"
done

running() { [ -s "$base/run/$1.pid" ] && kill -0 "$(cat "$base/run/$1.pid")" 2>/dev/null; }

# daemon NAME COMMAND...: starts it in its own session, without the caller's open files, unless it is already running.
daemon() {
  local name=$1
  shift
  running "$name" || { setsid "$@" & } </dev/null >>"$base/log/$name.out" 2>&1
}

# within SECONDS COMMAND...: waits until the command succeeds.
within() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || { tail -n 5 "$base"/log/* >&2; echo "start.sh: gave up on: $*" >&2; exit 1; }
    sleep 0.2
  done
}

all_idle() { [ "$(sinfo -h -N -p cpu -t idle -o %N | wc -l)" = 2 ]; }

[ -s "$base/munge.key" ] || (umask 077 && head -c 1024 /dev/urandom >"$base/munge.key")
daemon munged munged --foreground --key-file="$base/munge.key" --socket="$base/run/munge.socket" \
  --pid-file="$base/run/munged.pid" --log-file="$base/log/munged.log" --seed-file="$base/munge.seed"
within 20 munge --no-input --socket="$base/run/munge.socket"
daemon slurmctld slurmctld -i
within 30 scontrol ping
for node in n1 n2; do
  daemon "slurmd.$node" slurmd -N "$node"
done
within 60 all_idle
sinfo -N -o '%N %P %T %c CPUs, %m MB, %G'

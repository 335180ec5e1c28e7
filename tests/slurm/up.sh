#!/usr/bin/env bash
# A SLURM of two nodes on this machine, for tests: up.sh FOLDER, then `export SLURM_CONF=FOLDER/slurm.conf`.
# Everything it writes is in the folder, and down.sh FOLDER ends it. It takes Debian's slurm-wlm and munge.
set -euo pipefail
PATH="$PATH:/usr/sbin:/sbin"
folder=$(realpath "$1")
host=$(hostname -s)
mkdir -p "$folder"/{state,n0,n1}
chmod 755 "$folder"
trap '[ $? -eq 0 ] || tail --lines=20 "$folder"/*.log >&2' EXIT
# Three ports that are free now.
read -r control first second < <(python3 -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(one.getsockname()[1] for one in held))')

dd if=/dev/urandom of="$folder/munge.key" bs=1 count=1024 status=none
chmod 600 "$folder/munge.key"
# Forced, because the folder of a test is private, and munged would have one that all may enter.
munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munge.seed" 2>/dev/null

# cred_expire: a job is queued again once its credentials have expired, which takes 2 minutes otherwise.
# MinJobAge: jobs that have ended stay known, whatever a machine takes for the rest.
# GraceTime: how long a job of `low` has, from SIGTERM on, when one of `high` takes its place.
cat >"$folder/slurm.conf" <<CONF
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$control
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
SlurmctldParameters=enable_configless
SlurmdParameters=config_overrides
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/%n.pid
SlurmdSpoolDir=$folder/%n
StateSaveLocation=$folder/state
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/%n.log
JobRequeue=1
MinJobAge=100000
KillWait=5
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n0 NodeHostname=$host NodeAddr=127.0.0.1 Port=$first CPUs=2 RealMemory=4000 State=UNKNOWN
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$second CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=low Nodes=n[0-1] Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60 MaxTime=INFINITE State=UP
PartitionName=high Nodes=n[0-1] PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
CONF

export SLURM_CONF="$folder/slurm.conf"
slurmctld
slurmd -N n0
slurmd -N n1
for _ in $(seq 1200); do
    if [ "$(sinfo --noheader --states=idle --partition=low --format=%D 2>/dev/null)" = 2 ]; then exit 0; fi
    sleep 0.1
done
echo "the nodes did not come up" >&2
exit 1

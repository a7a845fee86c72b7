#!/usr/bin/env bash
# A SLURM of one node out of a folder of its own, without systemd or a database: tests/support/sweep/slurm_node.sh start|stop FOLDER
# Debian: apt-get install slurmctld slurmd slurm-client munge. As root. Afterwards: export SLURM_CONF=FOLDER/slurm.conf
# Two partitions on the one node: jobs of `urgent` requeue those of `normal` when there is no room for both.
# A requeued task starts again after cred_expire, 120 s by default.
set -euo pipefail
folder=$(realpath -m "$2")

start() {
  mkdir -p "$folder"/{state,spool,munge}
  head -c 1024 /dev/urandom > "$folder/munge/key"
  chmod 0400 "$folder/munge/key"
  cores=$(nproc --all) megabytes=$(awk '/MemTotal/ {print int($2 / 1024 / 2)}' /proc/meminfo) host=$(hostname -s)
  port=$((20000 + RANDOM % 20000))
  cat > "$folder/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,requeue_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=2
OverTimeLimit=0
MinJobAge=30
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores Boards=1 SocketsPerBoard=1 CoresPerSocket=$cores ThreadsPerCore=1 RealMemory=$megabytes
PartitionName=normal Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes=$host Default=NO MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
CONF
  munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" --num-threads=2
  export SLURM_CONF="$folder/slurm.conf"
  slurmctld -c
  slurmd
  for _ in $(seq 100); do
    [ "$(sinfo --noheader --format=%T --partition=normal 2>/dev/null)" = idle ] && exit 0
    sleep 0.2
  done
  echo "the node did not come up; see $folder/*.log" >&2
  exit 1
}

stop() {
  SLURM_CONF="$folder/slurm.conf" scancel --user=root || true
  for name in slurmctld slurmd munged; do
    [ -f "$folder/$name.pid" ] || continue
    pid=$(cat "$folder/$name.pid")
    kill "$pid" || true
    for _ in $(seq 100); do [ -d "/proc/$pid" ] && sleep 0.1 || break; done
  done
}

"$1"

#!/usr/bin/env bash
# Start a SLURM of one node with four CPUs and one pretended GPU, on the loopback interface only:
#   tests/slurm/up.sh FOLDER      down again: tests/slurm/down.sh FOLDER
# Needs root and Debian's slurmctld, slurmd, slurm-client and munge; no systemd, no database. It
# refuses to touch a SLURM that is configured already.
set -euo pipefail
root=$(realpath -m "${1:?usage: up.sh FOLDER}")
here=$(cd "$(dirname "$0")" && pwd)
conf=/etc/slurm/slurm.conf # jobs find it only here: Snakemake takes SLURM_CONF from them
if [ -e $conf ] && [ ! -L $conf ]; then
    echo "error: $conf exists: this machine has a SLURM of its own" >&2
    exit 1
fi
[ -L $conf ] && "$here/down.sh" "$(dirname "$(readlink $conf)")" # left behind by a killed run

mkdir -p "$root"/{state,spool}
chmod 755 "$root"
host=$(hostname -s)
gpu=$root/nvidia0 # SLURM wants a character device
[ -c "$gpu" ] || mknod "$gpu" c 195 0
echo "NodeName=$host Name=gpu Type=pretended File=$gpu" > "$root/gres.conf"
cat > "$root/slurm.conf" << CONF
ClusterName=cloakbench
SlurmctldHost=$host(127.0.0.1)
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 Boards=1 SocketsPerBoard=1 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=256000 Gres=gpu:pretended:1 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=7-00:00:00 State=UP
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides # CPUs and memory are pretended, too
EnforcePartLimits=ALL
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$root/munge.socket
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort=26817
SlurmdPort=26818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MailProg=/bin/true
MpiDefault=none
ReturnToService=2
MinJobAge=3600
KillWait=5
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,sched_min_interval=100000
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool
SlurmctldPidFile=$root/slurmctld.pid
SlurmdPidFile=$root/slurmd.pid
SlurmctldLogFile=$root/slurmctld.log
SlurmdLogFile=$root/slurmd.log
CONF
ln -s "$root/slurm.conf" $conf
ln -sf "$root/gres.conf" /etc/slurm/gres.conf

(umask 077 && head -c 1024 /dev/urandom > "$root/munge.key")
munged --force --socket="$root/munge.socket" --key-file="$root/munge.key" --num-threads=1 \
    --pid-file="$root/munged.pid" --log-file="$root/munged.log" --seed-file="$root/munge.seed"
slurmctld
slurmd
for _ in $(seq 100); do
    timeout 5 sinfo --noheader --format=%T 2> /dev/null | grep -q idle && exit 0
    sleep 0.1
done
echo "error: SLURM did not start; its last words:" >&2
tail -n 5 "$root"/*.log >&2
exit 1

#!/bin/bash
# A run on a Slurm allocation: one Ray node per Slurm node, the run on the first; sbatch config/deploy/slurm.sh CONFIG
#SBATCH --job-name=grasp
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=24:00:00
# With GPUs: #SBATCH --gpus-per-node=4, and gpus_per_worker: 1 in the configuration.
set -euo pipefail

config=${1:?the run configuration, with resources.compute.config.engine: ray and ray_address: auto (ray-compute.yaml)}
port=${RAY_PORT:-6379}
export GRASP_STORE=${GRASP_STORE:?a folder on shared disk or an s3:// URI}
export DAGSTER_HOME=${DAGSTER_HOME:?a folder on shared disk}
# Ray tries a block that ran out of memory again and again by default; once is enough to know.
export RAY_task_oom_retries=1

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(srun --nodes=1 --ntasks=1 -w "${nodes[0]}" hostname --ip-address | cut -d' ' -f1)

srun --nodes=1 --ntasks=1 -w "${nodes[0]}" \
  ray start --head --node-ip-address="$head" --port="$port" --num-cpus="$SLURM_CPUS_PER_TASK" \
  --include-dashboard=false --disable-usage-stats --block &
sleep 15
for node in "${nodes[@]:1}"; do
  srun --nodes=1 --ntasks=1 -w "$node" \
    ray start --address="$head:$port" --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats --block &
done
sleep 15

# Where a node dies its blocks are done elsewhere; where the run dies, submit the script again: it goes on from the tables.
srun --overlap --nodes=1 --ntasks=1 -w "${nodes[0]}" python -m assets.run curate --config "$config"

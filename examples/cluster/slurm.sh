#!/bin/bash
# Two nodes of eight GPUs under SLURM:  sbatch examples/cluster/slurm.sh data.zip
# Two minutes before the time is up the batch shell gets SIGTERM and hands it on: the training saves and ends, and the
# job queues again. The same command goes on from the newest state, also with another number of nodes.
#SBATCH --job-name=pggan
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes="$SLURM_NNODES" --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint="$first:29400" \
    --rdzv-id="$SLURM_JOB_ID" -m pggan_fast.cli train --data "$1" --outdir "$SLURM_SUBMIT_DIR/training-runs" \
    --cfg v2-8gpus &
step=$!
time_is_up=
trap 'time_is_up=yes; kill -TERM "$step"' TERM
wait "$step"
status=$?
if [ "$time_is_up" ]; then
    wait "$step"  # the first one ended at the signal
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

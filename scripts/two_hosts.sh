#!/bin/bash
# A training of two torchrun agents on two hosts: network namespaces with an address each, joined by a cable. Ends with
# the same weights as two processes on one host. Needs root (ip netns).
#
#     scripts/two_hosts.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "${1:-.venv/bin/python}")
work=$(mktemp -d)
export PYTHONPATH=$PWD/tests OMP_NUM_THREADS=1

clean() {
    ip netns delete pggan0 2>/dev/null || true
    ip netns delete pggan1 2>/dev/null || true
    rm -rf "$work"
}
trap clean EXIT
ip netns add pggan0
ip netns add pggan1
ip link add cable0 netns pggan0 type veth peer name cable1 netns pggan1
for host in 0 1; do
    ip -n pggan$host addr add 10.77.0.$((host + 1))/24 dev cable$host
    ip -n pggan$host link set cable$host up
    ip -n pggan$host link set lo up
done

agent() { # HOST: one of the two, each with one process
    GLOO_SOCKET_IFNAME=cable$1 ip netns exec pggan"$1" "$python" -m torch.distributed.run \
        --nnodes=2 --nproc-per-node=1 --rdzv-backend=c10d --rdzv-endpoint=10.77.0.1:29400 --rdzv-id=two \
        --rdzv-conf=is_host=$((1 - $1)) --local-addr=10.77.0.$(($1 + 1)) \
        tests/train_program.py "$work/apart" >"$work/host$1.log" 2>&1
}
agent 0 &
first=$!
agent 1 || { cat "$work"/host*.log; exit 1; }
wait $first || { cat "$work"/host*.log; exit 1; }
apart=$(grep -h ^digest "$work"/host*.log | sort -u)
together=$("$python" -m torch.distributed.run --standalone --nproc-per-node=2 tests/train_program.py "$work/together" \
    2>/dev/null | grep ^digest | sort -u)
echo "two hosts:     $apart"
echo "two processes: $together"
[ "$apart" = "$together" ]

#!/bin/sh
# Usage: tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
# On several machines, GPUS on each:   NNODES=2 NODE_RANK=0 MASTER_ADDR=first_machine tools/dist_train.sh CONFIG GPUS ...
# and the same with NODE_RANK=1 on the second. PORT (default 29500) must be free on the first, and different for two runs on one.
set -eu
[ $# -ge 2 ] || { echo "usage: $0 CONFIG GPUS [arguments of tools/train.py]" >&2; exit 2; }
config=$1 gpus=$2
shift 2
exec python -m torch.distributed.run --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" --nproc_per_node="$gpus" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"

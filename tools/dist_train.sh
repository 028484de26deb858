#!/bin/sh
# Usage: tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
set -eu
[ $# -ge 2 ] || { sed -n 2p "$0" >&2; exit 2; }
config=$1 gpus=$2
shift 2
exec python -m torch.distributed.run --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" --nproc_per_node="$gpus" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"

#!/usr/bin/env bash
# The table of few masks (few-masks.yaml) at full size, on a machine with a GPU and without a network.
#
#   experiments/gpu_table.sh pack DATA [PYTHON]    here: packs wheels and data into .table/, a file a part
#   experiments/gpu_table.sh unpack PART …         there: unpacks each copied part into $TABLE, /tmp/table by default
#   experiments/gpu_table.sh run OUT MINUTES [ROW …]
#                                                  there: runs rows, a process a seed, until they end or the time is over
#   experiments/gpu_table.sh result OUT            here: writes the results in OUT to results/few-masks.json
#
# `run` writes OUT/runs.tar, the finished runs without their weights. If it is copied and unpacked with the other parts
# the next time, `run` continues with the missing runs. A run that the time limit stopped resumes on the same machine and
# begins again on another.
set -euo pipefail
cd "$(dirname "$0")/.."
table=${TABLE:-/tmp/table}
small=(config.yaml summary.json metrics.jsonl model-card.md)

case ${1:-} in
pack)
  data=$2 python=${3:-3.12}
  mkdir -p .table/wheels
  # The GPU machine has torch and torchvision.
  python3 -m pip download -q --no-deps --only-binary=:all: --python-version "$python" --platform manylinux_2_28_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d .table/wheels \
    timm segmentation-models-pytorch opencv-python-headless simplejpeg pydantic pydantic-core typing-inspection \
    annotated-types PyYAML typer rich shellingham filelock safetensors Jinja2 MarkupSafe
  tar -cf .table/wheels.tar --exclude='opencv*' -C .table wheels
  (cd .table && tar -cf opencv.tar wheels/opencv*)
  for part in camvid labelmefacade msrc_v2 weights; do tar -cf ".table/$part.tar" -C "$data" "$part"; done
  ls -l .table/*.tar
  ;;
unpack)
  mkdir -p "$table"
  for part in "${@:2}"; do tar -xf "$part" -C "$table"; done
  if [ -d "$table/wheels" ]; then
    python3 -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$table/site" "$table"/wheels/*.whl
  fi
  ;;
run)
  out=$2 minutes=$3
  export PYTHONPATH="$PWD/src:$table/site" OMP_NUM_THREADS=2
  mkdir -p "$table/runs"
  for seed in 0 1 2 3 4; do
    timeout $((minutes * 60)) python3 -m fewmask recipes run experiments/few-masks.yaml "${@:4}" data="$table" \
      train.score=test train.workers=2 --seeds $seed --out "$table/runs" >"$table/seed-$seed.log" 2>&1 &
  done
  wait || true
  tail -n 2 "$table"/seed-*.log
  shopt -s nullglob
  (cd "$table" && for run in runs/*/summary.json; do
    for file in "${small[@]}"; do printf '%s\n' "$(dirname "$run")/$file"; done
  done | tar -cf "$out/runs.tar" -T -)
  ;;
result)
  mkdir -p runs/gpu-table
  tar -xf "$2/runs.tar" -C runs/gpu-table
  mapfile -t rows < <(cd runs/gpu-table/runs && printf '%s\n' *-[0-9] | sed 's/-[0-9]*$//' | sort -u)
  python3 experiments/few_masks.py runs/gpu-table/runs --control labels --out results/few-masks-validation.json \
    --chosen "${rows[@]}"
  ;;
*)
  sed -n '2,12p' "$0"
  exit 2
  ;;
esac
